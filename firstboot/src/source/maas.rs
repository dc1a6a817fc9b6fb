//! The metadata service of MAAS, which the cloud-config of `cloud-config-url=` names.
//!
//! MAAS starts a machine with a cloud-config that has the address of the service and an OAuth
//! token. That cloud-config configures the system: vendor-data and user-data of the service are
//! above it.

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::http::Http;
use super::{Seed, SourceResult};
use crate::system::machine;
use userdata::secret::Secret;

/// Of the service; cloud-init has never asked for another.
const VERSION: &str = "2012-03-01";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Config {
    datasource: Sources,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Sources {
    #[serde(rename = "MAAS")]
    maas: Option<Maas>,
}

/// Address and token. Without a token the service is asked without one.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Maas {
    metadata_url: String,
    consumer_key: String,
    consumer_secret: Option<Secret<String>>,
    token_key: String,
    token_secret: Option<Secret<String>>,
}

impl Maas {
    /// The service that a cloud-config names. What is wrong with the cloud-config, its own reader
    /// says.
    pub(super) fn named_by(cloud_config: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(cloud_config).ok()?;
        let (config, found) = yaml::parse_leniently::<Config>("cloud-config", text, true);
        let maas = config
            .filter(|_| !found.has_errors())?
            .value
            .datasource
            .maas;
        maas.filter(|maas| !maas.metadata_url.is_empty())
    }

    /// What the service has for this machine, above `cloud_config`.
    pub(super) fn read(&self, http: &Http, cloud_config: &[u8]) -> Result<SourceResult> {
        let base = self.metadata_url.trim_end_matches('/');
        let text = |path: &str| -> Result<Option<String>> {
            let bytes = self.get(http, path)?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
        };
        let mut meta = Map::new();
        for key in ["instance-id", "local-hostname"] {
            let Some(value) = text(&format!("meta-data/{key}"))? else {
                bail!("{base}: the metadata has no `{key}`");
            };
            meta.insert(key.to_owned(), json!(value));
        }
        let keys = text("meta-data/public-keys")?.unwrap_or_default();
        meta.insert("public-keys".to_owned(), json!(keys));
        meta.insert("cloud-name".to_owned(), json!("maas"));
        let vendor_data = self.get(http, "meta-data/vendor-data")?;
        let vendor_data = vendor_data
            .map(|bytes| of_vendor(&bytes).with_context(|| format!("{base}: vendor-data")))
            .transpose()?;
        Ok(SourceResult::Found(Seed {
            origin: base.to_owned(),
            user_data: self.get(http, "user-data")?.unwrap_or_default(),
            meta_data: Value::Object(meta).to_string().into_bytes(),
            network_config: None,
            vendor_data: Some(archive(cloud_config, vendor_data.flatten().as_deref())?),
        }))
    }

    fn get(&self, http: &Http, path: &str) -> Result<Option<Vec<u8>>> {
        let base = self.metadata_url.trim_end_matches('/');
        let url = format!("{base}/{VERSION}/{path}");
        if self.token_key.is_empty() {
            return http.get(&url);
        }
        // By the server's clock: it refuses a token that is dated minutes off, and the clock of a machine
        // without a battery is years off.
        let header = self.authorization(http.now(), &machine::random_word(16)?);
        http.fetch("GET", &url, &[("authorization", &header)])
    }

    /// OAuth 1.0 (RFC 5849 3.5.1), signed by its method PLAINTEXT.
    fn authorization(&self, now: i64, nonce: &str) -> String {
        let secret = |secret: &Option<Secret<String>>| {
            encoded(
                secret
                    .as_ref()
                    .map(|text| text.expose().as_str())
                    .unwrap_or_default(),
            )
        };
        let signature = format!(
            "{}&{}",
            secret(&self.consumer_secret),
            secret(&self.token_secret)
        );
        let now = now.to_string();
        let fields = [
            ("nonce", nonce),
            ("timestamp", &now),
            ("version", "1.0"),
            ("signature_method", "PLAINTEXT"),
            ("consumer_key", &self.consumer_key),
            ("token", &self.token_key),
            ("signature", &signature),
        ];
        let fields = fields.map(|(name, value)| format!("oauth_{name}=\"{}\"", encoded(value)));
        format!("OAuth {}", fields.join(", "))
    }
}

/// Vendor-data is a mapping that has the cloud-config in the key `cloud-init`.
fn of_vendor(bytes: &[u8]) -> Result<Option<String>> {
    let text = std::str::from_utf8(bytes).context("not text in UTF-8")?;
    let (vendor, found) = yaml::parse_leniently::<Map<String, Value>>("vendor-data", text, true);
    if found.has_errors() {
        bail!("{}", found.lines().collect::<Vec<_>>().join("\n"));
    }
    Ok(
        match vendor.and_then(|mut map| map.value.remove("cloud-init")) {
            Some(Value::String(text)) => Some(text),
            Some(Value::Null) | None => None,
            Some(_) => bail!("`cloud-init` is not a text"),
        },
    )
}

/// Both, the second above the first.
fn archive(system: &[u8], vendor: Option<&str>) -> Result<Vec<u8>> {
    let system = std::str::from_utf8(system).context("the cloud-config is not text in UTF-8")?;
    let parts = [Some(system), vendor].into_iter().flatten();
    let parts: Vec<_> = parts
        .map(|text| json!({"type": "text/cloud-config", "content": text}))
        .collect();
    Ok(format!("#cloud-config-archive\n{}\n", Value::Array(parts)).into_bytes())
}

/// RFC 5849 3.6
fn encoded(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match is_plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::source::test_server::{Reply, Server};
    use crate::system::files::Root;

    fn preseed(base: &str) -> Vec<u8> {
        let text = format!(
            "#cloud-config\ndatasource:\n  MAAS: {{consumer_key: c, metadata_url: '{base}/MAAS/metadata/', \
             token_key: t, token_secret: s&cret}}\nmanage_etc_hosts: true\n"
        );
        text.into_bytes()
    }

    #[test]
    fn service_is_asked_with_the_token_and_the_time_of_the_server() {
        let server = Server::start(|request, head| {
            if request == "GET /preseed" {
                return Reply::Body(Vec::new());
            }
            // 1985, by the server's clock.
            let recent = head.contains("oauth_timestamp=\"5000000");
            if !recent || !head.contains("oauth_signature=\"%26s%2526cret\"") {
                return Reply::Status(401);
            }
            let body = match request.trim_start_matches("GET /MAAS/metadata/2012-03-01/") {
                "meta-data/instance-id" => "wq3hfc",
                "meta-data/local-hostname" => "live-owl",
                "meta-data/public-keys" => "ssh-rsa A a\nssh-rsa B b",
                "meta-data/vendor-data" => {
                    "cloud-init: \"#cloud-config\\nntp: {servers: [a]}\\n\"\n"
                }
                "user-data" => "#cloud-config\nhostname: b\n",
                _ => return Reply::Status(404),
            };
            Reply::Body(body.as_bytes().to_vec())
        });
        let http = Http::new(&Root::new("/nowhere"), Duration::from_secs(20)).unwrap();
        http.get(&format!("{}/preseed", server.base)).unwrap();
        http.set_date("Tue, 05 Nov 1985 00:53:20 GMT");
        let preseed = preseed(&server.base);
        let maas = Maas::named_by(&preseed).expect("a service");
        let SourceResult::Found(seed) = maas.read(&http, &preseed).unwrap() else {
            panic!("not found")
        };
        assert_eq!(seed.user_data, b"#cloud-config\nhostname: b\n");
        let meta: Value = serde_json::from_slice(&seed.meta_data).unwrap();
        assert_eq!(meta["instance-id"], "wq3hfc");
        let vendor = String::from_utf8(seed.vendor_data.unwrap()).unwrap();
        let first = vendor.find("manage_etc_hosts").expect("the system's");
        assert!(
            first < vendor.find("ntp").expect("the vendor's"),
            "{vendor}"
        );
    }

    #[test]
    fn other_cloud_configs_name_no_service() {
        for text in [
            "#cloud-config\n",
            "#cloud-config\ndatasource: {NoCloud: {}}\n",
            "#cloud-config\ndatasource: {MAAS: {timeout: 5}}\n",
            "#cloud-config\n- a\n",
            "#cloud-config\n{",
        ] {
            assert!(Maas::named_by(text.as_bytes()).is_none(), "{text}");
        }
    }
}

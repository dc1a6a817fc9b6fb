//! The metadata service of EC2, by session tokens (IMDSv2), where SMBIOS names EC2.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value, json};

use super::http::Http;
use super::{Seed, Source, SourceResult, uplink};
use crate::system::files::Root;
use crate::system::machine::Identity;

const BASE: &str = "http://169.254.169.254";
const TOTAL: Duration = Duration::from_secs(240);
/// Old enough for every implementation, and it has all that is read here.
const VERSION: &str = "latest";
const TTL: (&str, &str) = ("x-aws-ec2-metadata-token-ttl-seconds", "21600");
const TOKEN: &str = "x-aws-ec2-metadata-token";

#[derive(Debug)]
pub struct Ec2 {
    pub root: Root,
    pub base: String,
}

impl Ec2 {
    pub fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            base: BASE.to_owned(),
        }
    }

    fn get(&self, http: &Http, token: &str, path: &str) -> Result<Option<Vec<u8>>> {
        let url = format!("{}/{VERSION}/{path}", self.base);
        http.fetch("GET", &url, &[(TOKEN, token)])
    }

    fn text(&self, http: &Http, token: &str, path: &str) -> Result<Option<String>> {
        let bytes = self.get(http, token, path)?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned()))
    }

    /// The keys, which are listed as `0=NAME`.
    fn keys(&self, http: &Http, token: &str) -> Result<Vec<String>> {
        let list = self
            .text(http, token, "meta-data/public-keys/")?
            .unwrap_or_default();
        let mut keys = Vec::new();
        for line in list.lines() {
            let number = line.split('=').next().unwrap_or_default();
            let path = format!("meta-data/public-keys/{number}/openssh-key");
            keys.extend(self.text(http, token, &path)?);
        }
        Ok(keys)
    }
}

impl Source for Ec2 {
    fn name(&self) -> &'static str {
        "ec2"
    }

    fn fetches(&self) -> bool {
        true
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        if !is_ec2(machine) {
            return Ok(SourceResult::NotFound(
                "SMBIOS does not name EC2".to_owned(),
            ));
        }
        uplink::wait(&self.root, TOTAL)?;
        let http = Http::new(&self.root, TOTAL)?;
        let url = format!("{}/latest/api/token", self.base);
        let token = http
            .fetch("PUT", &url, &[TTL])
            .context("asking for a session token")?;
        let Some(token) = token else {
            bail!("{url} is not there: the metadata service of this instance is switched off");
        };
        let token = String::from_utf8(token).context("reading the session token")?;
        let mut meta = Map::new();
        for (key, path) in [
            ("instance-id", "meta-data/instance-id"),
            ("local-hostname", "meta-data/local-hostname"),
            ("availability-zone", "meta-data/placement/availability-zone"),
            ("region", "meta-data/placement/region"),
        ] {
            if let Some(text) = self.text(&http, &token, path)? {
                meta.insert(key.to_owned(), json!(text));
            }
        }
        if !meta.contains_key("instance-id") {
            bail!("{}: the metadata has no `instance-id`", self.base);
        }
        meta.insert("public-keys".to_owned(), json!(self.keys(&http, &token)?));
        meta.insert("cloud-name".to_owned(), json!("aws"));
        let user_data = self.get(&http, &token, "user-data")?.unwrap_or_default();
        Ok(SourceResult::Found(Seed {
            origin: self.base.clone(),
            user_data: decoded(user_data),
            meta_data: Value::Object(meta).to_string().into_bytes(),
            network_config: None,
            vendor_data: None,
        }))
    }
}

/// The UUID begins with `ec2` in one of the two byte orders of SMBIOS.
fn is_ec2(machine: &Identity) -> bool {
    let uuid = machine.uuid.as_deref().unwrap_or_default();
    let swapped: String = [6, 4, 2, 0]
        .iter()
        .filter_map(|at| uuid.get(*at..at + 2))
        .collect();
    uuid.starts_with("ec2") || swapped.starts_with("ec2")
}

/// Some clients encode what the service encodes again.
fn decoded(user_data: Vec<u8>) -> Vec<u8> {
    let text: Vec<u8> = user_data
        .iter()
        .copied()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    match BASE64_STANDARD.decode(&text) {
        Ok(decoded) if !text.is_empty() => decoded,
        _ => user_data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::test_server::{Reply, Server};

    fn machine(uuid: &str) -> Identity {
        Identity {
            uuid: Some(uuid.to_owned()),
            ..Identity::default()
        }
    }

    #[test]
    fn ec2_is_known_by_its_uuid_in_either_byte_order() {
        for (uuid, expected) in [
            ("ec2e1916-9099-7caf-fd21-012345abcdef", true),
            ("45e12aec-dcd1-b213-94ed-012345abcdef", true),
            ("00112233-4455-6677-8899-aabbccddeeff", false),
            ("", false),
        ] {
            assert_eq!(is_ec2(&machine(uuid)), expected, "{uuid}");
        }
    }

    #[test]
    fn every_request_carries_the_token() {
        let server = Server::start(|request, head| {
            if request == "PUT /latest/api/token" {
                assert!(head.contains("x-aws-ec2-metadata-token-ttl-seconds: 21600"));
                return Reply::Body(b"t0k".to_vec());
            }
            if !head.contains("x-aws-ec2-metadata-token: t0k") {
                return Reply::Status(401);
            }
            let body = match request.trim_start_matches("GET /latest/") {
                "meta-data/instance-id" => "i-1",
                "meta-data/local-hostname" => "ip-10-0-0-1.internal",
                "meta-data/public-keys/" => "0=ops\n1=more",
                "meta-data/public-keys/0/openssh-key" => "ssh-rsa A ops\n",
                "user-data" => "I2Nsb3VkLWNvbmZpZwpob3N0bmFtZTogYQo=",
                _ => return Reply::Status(404),
            };
            Reply::Body(body.as_bytes().to_vec())
        });
        let source = Ec2 {
            root: Root::new("/nowhere"),
            base: server.base.clone(),
        };
        let ec2 = machine("ec2e1916-9099-7caf-fd21-012345abcdef");
        let SourceResult::Found(seed) = source.read(&ec2).unwrap() else {
            panic!("not found")
        };
        assert_eq!(seed.user_data, b"#cloud-config\nhostname: a\n");
        let meta: Value = serde_json::from_slice(&seed.meta_data).unwrap();
        assert_eq!(meta["instance-id"], "i-1");
        assert_eq!(meta["public-keys"], json!(["ssh-rsa A ops"]));
        let Ok(SourceResult::NotFound(_)) = source.read(&machine("0011")) else {
            panic!("asked")
        };
    }

    #[test]
    fn service_that_is_switched_off_is_an_error() {
        let server = Server::start(|_, _| Reply::Status(403));
        let source = Ec2 {
            root: Root::new("/nowhere"),
            base: server.base.clone(),
        };
        let error = source.read(&machine("ec2e1916")).unwrap_err();
        assert!(
            format!("{error:#}").contains("the server answers 403"),
            "{error:#}"
        );
        assert_eq!(server.asked().len(), 1);
    }
}

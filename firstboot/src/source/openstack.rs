//! OpenStack's files: on a disk labelled `config-2`, or from its metadata service.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Map, Value, json};

use super::http::Http;
use super::{Seed, Source, SourceResult, network_data, uplink};
use crate::system::files::Root;
use crate::system::machine::Identity;

/// The versions that cloud-init knows, newest first; then whatever there is.
const VERSIONS: [&str; 9] = [
    "2018-08-27",
    "2017-02-22",
    "2016-10-06",
    "2016-06-30",
    "2015-10-15",
    "2013-10-17",
    "2013-04-04",
    "2012-08-10",
    "latest",
];

const BASE: &str = "http://169.254.169.254";
const TOTAL: Duration = Duration::from_secs(240);

/// Products that run the service, by SMBIOS.
const PRODUCTS: [&str; 2] = ["OpenStack Nova", "OpenStack Compute"];
const ASSET_TAGS: [&str; 6] = [
    "OpenStack Nova",
    "OpenStack Compute",
    "HUAWEICLOUD",
    "OpenTelekomCloud",
    "SAP CCloud VM",
    "Samsung Cloud Platform",
];

/// Gets a file below `openstack/VERSION`.
type Get<'a> = dyn Fn(&str) -> Result<Option<Vec<u8>>> + 'a;

/// The metadata service, asked only where SMBIOS names OpenStack.
#[derive(Debug)]
pub struct OpenStack {
    pub root: Root,
    pub base: String,
}

impl OpenStack {
    pub fn new(root: &Root) -> Self {
        Self {
            root: root.clone(),
            base: BASE.to_owned(),
        }
    }
}

impl Source for OpenStack {
    fn name(&self) -> &'static str {
        "openstack"
    }

    fn fetches(&self) -> bool {
        true
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        let product = machine.product.as_deref().unwrap_or_default();
        let tag = machine.asset_tag.as_deref().unwrap_or_default();
        if !PRODUCTS.contains(&product) && !ASSET_TAGS.contains(&tag) {
            return Ok(SourceResult::NotFound(
                "SMBIOS does not name OpenStack".to_owned(),
            ));
        }
        uplink::wait(&self.root, TOTAL)?;
        let http = Http::new(&self.root, TOTAL)?;
        let listed = http.get(&format!("{}/openstack", self.base))?;
        let listed = listed.with_context(|| format!("{}/openstack is not there", self.base))?;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let names: Vec<&str> = listed
            .lines()
            .map(|line| line.trim().trim_matches('/'))
            .collect();
        let version = VERSIONS.iter().find(|version| names.contains(version));
        let version = version.unwrap_or(&"latest");
        let get = |file: &str| http.get(&format!("{}/openstack/{version}/{file}", self.base));
        read(&get, &format!("{}/openstack/{version}", self.base), machine)
    }
}

/// The drive that is mounted at `folder`. `None` without OpenStack's files.
pub(super) fn drive(folder: &Path, origin: &str, machine: &Identity) -> Result<SourceResult> {
    let base = folder.join("openstack");
    let version = VERSIONS.iter().find(|version| base.join(version).is_dir());
    let Some(version) = version else {
        return Ok(SourceResult::NotFound(format!(
            "{origin} has no folder `openstack`"
        )));
    };
    let get = |file: &str| super::directory::read_bytes(&base.join(version), file, origin);
    read(&get, &format!("{origin}/openstack/{version}"), machine)
}

fn read(get: &Get<'_>, origin: &str, machine: &Identity) -> Result<SourceResult> {
    let Some(meta) = object(get, "meta_data.json", origin)? else {
        bail!("{origin}: `meta_data.json` is missing");
    };
    let Value::Object(meta) = meta else {
        bail!("{origin}/meta_data.json: not a mapping");
    };
    let uuid = meta.get("uuid").and_then(Value::as_str);
    ensure!(uuid.is_some(), "{origin}/meta_data.json: `uuid` is missing");
    let network = object(get, "network_data.json", origin)?;
    let network_config = match network {
        Some(network) => {
            let name = format!("{origin}/network_data.json");
            Some(network_data::version_1(&network, machine).with_context(|| name)?)
        }
        None => {
            if meta.contains_key("network_config") {
                log::warn!("{origin}: its network is in the format of ifupdown and not read");
            }
            None
        }
    };
    Ok(SourceResult::Found(Seed {
        origin: origin.to_owned(),
        user_data: get("user_data")?.unwrap_or_default(),
        meta_data: meta_data(meta).to_string().into_bytes(),
        network_config: network_config.map(|config| config.to_string().into_bytes()),
        vendor_data: vendor_data(get, origin)?,
    }))
}

/// JSON of an optional file. An empty one is as good as none: Proxmox writes such.
fn object(get: &Get<'_>, file: &str, origin: &str) -> Result<Option<Value>> {
    let bytes = get(file)?.unwrap_or_default();
    if bytes.trim_ascii().is_empty() {
        return Ok(None);
    }
    let value = serde_json::from_slice(&bytes);
    value
        .map(Some)
        .with_context(|| format!("reading {origin}/{file}"))
}

/// As NoCloud has it; all other keys stay for templates.
fn meta_data(mut meta: Map<String, Value>) -> Value {
    let uuid = meta.get("uuid").cloned().unwrap_or_default();
    meta.insert("instance-id".to_owned(), uuid);
    if let Some(name) = meta.get("hostname").cloned() {
        meta.insert("local-hostname".to_owned(), name);
    }
    // Nothing here reads them, and one is a password.
    for key in [
        "admin_pass",
        "random_seed",
        "files",
        "network_config",
        "hostname",
    ] {
        meta.remove(key);
    }
    meta.insert("cloud-name".to_owned(), json!("openstack"));
    Value::Object(meta)
}

/// A text, or of a mapping the key `cloud-init`.
fn vendor_data(get: &Get<'_>, origin: &str) -> Result<Option<Vec<u8>>> {
    for file in ["vendor_data2.json", "vendor_data.json"] {
        let given = match object(get, file, origin)? {
            Some(Value::Object(mut map)) => map.remove("cloud-init"),
            other => other,
        };
        match given {
            Some(Value::String(text)) => return Ok(Some(text.into_bytes())),
            Some(Value::Null) | None => {}
            Some(_) => log::warn!("{origin}/{file}: not a text; it is not read"),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::test_server::Server;

    const META: &str = r#"{"uuid": "u-1", "hostname": "n0.example", "public_keys": {"k": "ssh-rsa A"},
        "admin_pass": "hunter2", "availability_zone": "z"}"#;

    fn openstack() -> Identity {
        Identity {
            product: Some("OpenStack Nova".to_owned()),
            ..Identity::default()
        }
    }

    fn service(server: &Server) -> OpenStack {
        OpenStack {
            root: Root::new("/nowhere"),
            base: server.base.clone(),
        }
    }

    #[test]
    fn service_is_asked_only_where_smbios_names_it() {
        let server = Server::with_files(&[]);
        let Ok(SourceResult::NotFound(_)) = service(&server).read(&Identity::default()) else {
            panic!("asked")
        };
        assert!(server.asked().is_empty());
        let error = service(&server).read(&openstack()).unwrap_err();
        assert!(
            format!("{error:#}").contains("/openstack is not there"),
            "{error:#}"
        );
    }

    #[test]
    fn newest_known_version_is_read() {
        let server = Server::with_files(&[
            ("/openstack", "2013-10-17\n2017-02-22/\n2099-01-01\nlatest"),
            ("/openstack/2017-02-22/meta_data.json", META),
            ("/openstack/2017-02-22/user_data", "#cloud-config\n"),
            ("/openstack/2017-02-22/vendor_data.json", ""),
            (
                "/openstack/2017-02-22/vendor_data2.json",
                r##"{"cloud-init": "#cloud-config\n", "other": 1}"##,
            ),
        ]);
        let SourceResult::Found(seed) = service(&server).read(&openstack()).unwrap() else {
            panic!("not found")
        };
        assert_eq!(seed.user_data, b"#cloud-config\n");
        assert_eq!(seed.vendor_data.unwrap(), b"#cloud-config\n");
        let meta: Value = serde_json::from_slice(&seed.meta_data).unwrap();
        assert_eq!(meta["instance-id"], "u-1");
        assert_eq!(meta["local-hostname"], "n0.example");
        assert_eq!(meta["availability_zone"], "z");
        assert!(meta.get("admin_pass").is_none());
        // One request for each file.
        assert_eq!(server.asked().len(), 5, "{:?}", server.asked());
    }

    #[test]
    fn drive_without_meta_data_is_broken_and_another_disk_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let read = || drive(dir.path(), "/dev/sr0", &Identity::default());
        let Ok(SourceResult::NotFound(_)) = read() else {
            panic!("found")
        };
        let root = Root::new(dir.path());
        let put = |file: &str, text: &str| {
            let mode = crate::system::files::Attributes::mode(0o644);
            root.write(format!("/openstack/latest/{file}"), text.as_bytes(), mode)
                .unwrap();
        };
        put("user_data", "#cloud-config\n");
        assert!(
            read()
                .unwrap_err()
                .to_string()
                .contains("`meta_data.json` is missing")
        );
        put("meta_data.json", META);
        put("vendor_data.json", "");
        let Ok(SourceResult::Found(seed)) = read() else {
            panic!("not found")
        };
        assert_eq!(seed.vendor_data, None);
        put("network_data.json", "{");
        let error = format!("{:#}", read().unwrap_err());
        assert!(error.contains("network_data.json"), "{error}");
    }
}

//! A document in credentials of the machine, which come from SMBIOS or fw_cfg:
//! `-smbios type=11,value=io.systemd.credential.binary:firstlight.user-data=BASE64`.

use anyhow::Result;

use super::{Seed, Source, SourceResult};
use crate::system::credentials;
use crate::system::files::Root;
use crate::system::machine::Identity;

#[derive(Debug)]
pub struct Credentials {
    pub root: Root,
}

impl Source for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn read(&self, _: &Identity) -> Result<SourceResult> {
        let get = |name: &str| credentials::read(&self.root, &format!("firstlight.{name}"));
        let Some(user_data) = get("user-data") else {
            let reason = "no credential is called `firstlight.user-data`";
            return Ok(SourceResult::NotFound(reason.to_owned()));
        };
        Ok(SourceResult::Found(Seed {
            origin: "credentials".to_owned(),
            user_data,
            meta_data: get("meta-data").unwrap_or_default(),
            network_config: get("network-config"),
            vendor_data: get("vendor-data"),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::system::files::Attributes;

    #[test]
    fn credential_is_a_document() {
        let dir = tempfile::tempdir().unwrap();
        let source = Credentials {
            root: Root::new(dir.path()),
        };
        let read = || source.read(&Identity::default()).unwrap();
        assert!(matches!(read(), SourceResult::NotFound(_)));
        let path = format!("{}/firstlight.user-data", credentials::FOLDER);
        let text = b"#cloud-config\n";
        source
            .root
            .write(path, text, Attributes::mode(0o400))
            .unwrap();
        let SourceResult::Found(seed) = read() else {
            panic!("not found")
        };
        assert_eq!(seed.user_data, text);
    }
}

//! A NoCloud seed that the kernel command line or the SMBIOS serial number names.
//!
//! A source named on the command line is wanted: a failure is an error, and no other source is asked.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::http::Http;
use super::maas::Maas;
use super::{Seed, Source, SourceResult, directory, uplink};
use crate::system::files::Root;
use crate::system::machine::Identity;

/// For all files of a seed.
const TOTAL: Duration = Duration::from_secs(300);

const CMDLINE: &str = "/proc/cmdline";
const SERIAL: &str = "/sys/class/dmi/id/product_serial";

/// Where the name of the seed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Cmdline,
    Serial,
}

/// The seed that one place names.
#[derive(Debug)]
pub struct Named {
    pub root: Root,
    pub place: Place,
}

/// What one place says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Line {
    /// Base URL or folder of a seed.
    seed: Option<String>,
    /// URL of a cloud-config alone.
    config: Option<String>,
    instance_id: Option<String>,
    local_hostname: Option<String>,
}

impl Source for Named {
    fn name(&self) -> &'static str {
        match self.place {
            Place::Cmdline => "cmdline",
            Place::Serial => "smbios-serial",
        }
    }

    fn fetches(&self) -> bool {
        true
    }

    fn read(&self, machine: &Identity) -> Result<SourceResult> {
        let line = self.line()?;
        let shown = match self.place {
            Place::Cmdline => "the kernel command line",
            Place::Serial => "the SMBIOS serial number",
        };
        let result = match (&line.seed, &line.config) {
            (Some(seed), _) => self.seed(&self.filled(seed)?, machine),
            (None, Some(url)) => self.config(&self.filled(url)?),
            (None, None) => {
                return Ok(SourceResult::NotFound(format!("{shown} names no seed")));
            }
        };
        let mut seed = match result.with_context(|| format!("{shown} names a seed"))? {
            SourceResult::Found(seed) => seed,
            SourceResult::NotFound(reason) => bail!("{shown} names a seed: {reason}"),
        };
        line.change(&mut seed)?;
        Ok(SourceResult::Found(seed))
    }
}

impl Named {
    fn line(&self) -> Result<Line> {
        let path = match self.place {
            Place::Cmdline => CMDLINE,
            Place::Serial => SERIAL,
        };
        let text = self.root.read(path)?.unwrap_or_default();
        Ok(Line::parse(&String::from_utf8_lossy(&text), self.place))
    }

    fn seed(&self, from: &str, machine: &Identity) -> Result<SourceResult> {
        let folder = from.strip_prefix("file://").unwrap_or(from);
        if folder.starts_with('/') {
            let folder = PathBuf::from(folder);
            return directory::read(
                &self.root.join(&folder),
                &folder.display().to_string(),
                machine,
            );
        }
        ensure!(
            from.starts_with("http://") || from.starts_with("https://"),
            "`{from}` is no seed: write `http://…/`, `https://…/` or `/folder/`"
        );
        uplink::wait(&self.root, TOTAL)?;
        let http = Http::new(&self.root, TOTAL)?;
        fetch(&http, from)
    }

    /// A cloud-config alone, or one that names the metadata service of MAAS.
    fn config(&self, url: &str) -> Result<SourceResult> {
        uplink::wait(&self.root, TOTAL)?;
        let http = Http::new(&self.root, TOTAL)?;
        let user_data = http.get(url)?;
        let user_data = user_data.with_context(|| format!("`{url}` is not there"))?;
        ensure!(
            user_data.starts_with(b"#cloud-config"),
            "`{url}` does not begin with `#cloud-config`"
        );
        if let Some(maas) = Maas::named_by(&user_data) {
            return maas.read(&http, &user_data);
        }
        Ok(SourceResult::Found(Seed {
            origin: url.to_owned(),
            user_data,
            meta_data: Vec::new(),
            network_config: None,
            vendor_data: None,
        }))
    }

    /// With the values of this machine for `__dmi.NAME__`.
    fn filled(&self, text: &str) -> Result<String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("__dmi.") {
            out.push_str(before);
            let Some((name, after)) = after.split_once("__") else {
                bail!("`__dmi.` without `__` at its end");
            };
            let file = dmi_file(name)
                .with_context(|| format!("`__dmi.{name}__` is no property of a machine"))?;
            let path = format!("/sys/class/dmi/id/{file}");
            let value = self.root.read(path)?.unwrap_or_default();
            let value = String::from_utf8_lossy(&value).trim().to_owned();
            let word = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
            // As part of a URL.
            for byte in value.bytes() {
                match char::from(byte) {
                    c if word(c) => out.push(c),
                    _ => out.push_str(&format!("%{byte:02X}")),
                }
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }
}

/// The file of sysfs for a name that dmidecode has.
fn dmi_file(name: &str) -> Option<&'static str> {
    Some(match name {
        "baseboard-asset-tag" => "board_asset_tag",
        "baseboard-manufacturer" => "board_vendor",
        "baseboard-product-name" => "board_name",
        "baseboard-serial-number" => "board_serial",
        "baseboard-version" => "board_version",
        "bios-release-date" => "bios_date",
        "bios-vendor" => "bios_vendor",
        "bios-version" => "bios_version",
        "chassis-asset-tag" => "chassis_asset_tag",
        "chassis-manufacturer" => "chassis_vendor",
        "chassis-serial-number" => "chassis_serial",
        "chassis-version" => "chassis_version",
        "system-manufacturer" => "sys_vendor",
        "system-product-name" => "product_name",
        "system-serial-number" => "product_serial",
        "system-uuid" => "product_uuid",
        "system-version" => "product_version",
        _ => return None,
    })
}

/// The four files below `base`. Only `user-data` must be there.
fn fetch(http: &Http, base: &str) -> Result<SourceResult> {
    let url = |file: &str| {
        if base.contains("%s") {
            base.replace("%s", file)
        } else if base.contains('?') || base.ends_with('/') {
            format!("{base}{file}")
        } else {
            format!("{base}/{file}")
        }
    };
    let Some(user_data) = http.get(&url("user-data"))? else {
        return Ok(SourceResult::NotFound(format!("{base} has no `user-data`")));
    };
    Ok(SourceResult::Found(Seed {
        origin: base
            .split('?')
            .next()
            .unwrap_or_default()
            .trim_end_matches('/')
            .to_owned(),
        user_data,
        meta_data: http.get(&url("meta-data"))?.unwrap_or_default(),
        network_config: http.get(&url("network-config"))?,
        vendor_data: http.get(&url("vendor-data"))?,
    }))
}

impl Line {
    fn parse(text: &str, place: Place) -> Line {
        let mut line = Line::default();
        for word in text.split_whitespace() {
            if let Some(url) = word.strip_prefix("firstlight.seed=") {
                line.seed = Some(url.to_owned());
            } else if let Some(url) = word.strip_prefix("cloud-config-url=") {
                line.config = Some(url.to_owned());
            } else if let Some(rest) = word.strip_prefix("ds=") {
                let (name, rest) = rest.split_once(';').unwrap_or((rest, ""));
                if matches!(name, "nocloud" | "nocloud-net") {
                    line.pairs(rest);
                }
            }
        }
        if place == Place::Serial {
            // A serial number is only ever a data source.
            (line.config, line.seed) = (None, line.seed.filter(|_| text.contains("ds=nocloud")));
        }
        line
    }

    fn pairs(&mut self, text: &str) {
        for pair in text.split(';') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = (!value.is_empty()).then(|| value.to_owned());
            match key {
                "s" | "seedfrom" => self.seed = value,
                "i" | "instance-id" => self.instance_id = value,
                "h" | "local-hostname" => self.local_hostname = value,
                _ => {}
            }
        }
    }

    /// What the line says of the instance wins over the seed.
    fn change(&self, seed: &mut Seed) -> Result<()> {
        let pairs = [
            ("instance-id", &self.instance_id),
            ("local-hostname", &self.local_hostname),
        ];
        if pairs.iter().all(|(_, value)| value.is_none()) {
            return Ok(());
        }
        let name = format!("{}/meta-data", seed.origin);
        let text = std::str::from_utf8(&seed.meta_data)
            .with_context(|| format!("{name}: not text in UTF-8"))?;
        let read = yaml::parse_leniently::<serde_json::Map<String, serde_json::Value>>;
        let (meta, found) = read(&name, text, true);
        ensure!(
            !found.has_errors(),
            "{}",
            found.lines().collect::<Vec<_>>().join("\n")
        );
        let mut meta = meta.map(|meta| meta.value).unwrap_or_default();
        for (key, value) in pairs {
            if let Some(value) = value {
                meta.insert(key.to_owned(), value.clone().into());
            }
        }
        seed.meta_data = yaml::to_string(&meta).into_bytes();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::test_server::Server;
    use crate::system::files::Attributes;

    #[test]
    fn lines_are_read_as_cloud_init_reads_them() {
        let seed = |seed: &str| Line {
            seed: Some(seed.to_owned()),
            ..Line::default()
        };
        for (text, expected) in [
            ("ro quiet", Line::default()),
            ("ds=nocloud", Line::default()),
            ("ds=nocloudx;s=http://a/", Line::default()),
            ("ds=nocloud;s=http://a/", seed("http://a/")),
            ("a ds=nocloud-net;seedfrom=http://a/ b", seed("http://a/")),
            ("firstlight.seed=https://a/x", seed("https://a/x")),
            // No escaping: a `;` ends the URL.
            ("ds=nocloud;s=http://x/?a=1;b=2/", seed("http://x/?a=1")),
            (
                "ds=nocloud;s=/seed;i=i-1;h=n0",
                Line {
                    instance_id: Some("i-1".to_owned()),
                    local_hostname: Some("n0".to_owned()),
                    ..seed("/seed")
                },
            ),
        ] {
            assert_eq!(Line::parse(text, Place::Cmdline), expected, "{text}");
        }
        let url = Line::parse("cloud-config-url=http://a/c", Place::Cmdline);
        assert_eq!(url.config.as_deref(), Some("http://a/c"));
        let serial = Line::parse(
            "SN firstlight.seed=http://a/ cloud-config-url=x",
            Place::Serial,
        );
        assert_eq!(serial, Line::default());
    }

    fn named(dir: &std::path::Path, line: &str) -> Named {
        let root = Root::new(dir);
        let mode = Attributes::mode(0o644);
        root.write(CMDLINE, line.as_bytes(), mode).unwrap();
        let serial = b"SN/1 x\n";
        root.write(SERIAL, serial, mode).unwrap();
        Named {
            root,
            place: Place::Cmdline,
        }
    }

    fn read(line: &str) -> Result<SourceResult> {
        let dir = tempfile::tempdir().unwrap();
        named(dir.path(), line).read(&Identity::default())
    }

    #[test]
    fn seed_over_http_needs_user_data_only() {
        let server = Server::with_files(&[
            ("/s/user-data", "#cloud-config\n"),
            ("/s/meta-data", "instance-id: theirs\nother: 1\n"),
            ("/only/user-data", "#cloud-config\n"),
            ("/SN%2F1%20x/user-data", "#cloud-config\nhostname: a\n"),
        ]);
        let base = &server.base;
        let SourceResult::Found(seed) = read(&format!("ds=nocloud;s={base}/s;h=n0")).unwrap()
        else {
            panic!("not found")
        };
        assert_eq!(seed.origin, format!("{base}/s"));
        let meta = String::from_utf8(seed.meta_data).unwrap();
        assert!(
            meta.contains("local-hostname: n0") && meta.contains("instance-id: theirs"),
            "{meta}"
        );
        assert!(read(&format!("firstlight.seed={base}/only/")).is_ok());
        let line = format!("firstlight.seed={base}/__dmi.system-serial-number__/");
        assert!(read(&line).is_ok(), "{:?}", server.asked());
        // Each optional file costs one request.
        assert_eq!(server.asked().len(), 12, "{:?}", server.asked());
        let error = format!(
            "{:#}",
            read(&format!("firstlight.seed={base}/none")).unwrap_err()
        );
        assert!(error.contains("/none has no `user-data`"), "{error}");
        let error = read("firstlight.seed=ftp://a/").unwrap_err();
        assert!(format!("{error:#}").contains("is no seed"));
        let error = read("firstlight.seed=http://a/__dmi.serial__").unwrap_err();
        assert!(format!("{error:#}").contains("no property of a machine"));
    }

    #[test]
    fn cloud_config_url_must_be_a_cloud_config() {
        let server = Server::with_files(&[("/a", "#cloud-config\n"), ("/b", "#!/bin/sh\n")]);
        let base = &server.base;
        assert!(read(&format!("cloud-config-url={base}/a")).is_ok());
        for path in ["b", "c"] {
            assert!(
                read(&format!("cloud-config-url={base}/{path}")).is_err(),
                "{path}"
            );
        }
    }

    #[test]
    fn place_without_a_name_is_passed_over() {
        let Ok(SourceResult::NotFound(reason)) = read("ro quiet") else {
            panic!("found")
        };
        assert_eq!(reason, "the kernel command line names no seed");
    }
}

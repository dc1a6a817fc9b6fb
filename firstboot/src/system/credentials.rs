//! Credentials that firmware or a hypervisor has for this machine, by the names and places of
//! systemd.system-credentials(7).
//!
//! systemd copies them to a folder, but not in an image that seals its state to Secure Boot: there
//! a unit from outside would run with the state open. So this also reads the places themselves.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::files::Root;

/// Where systemd copies them to.
pub const FOLDER: &str = "/run/credentials/@system";
/// The tables of SMBIOS.
const TABLES: &str = "/sys/firmware/dmi/tables/DMI";
/// QEMU's fw_cfg.
const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/io.systemd.credentials";
/// The structure of SMBIOS with the strings of the machine's maker.
const OEM_STRINGS: u8 = 11;
const END_OF_TABLE: u8 = 127;

/// The credential of this name, if there is one.
pub fn read(root: &Root, name: &str) -> Option<Vec<u8>> {
    let get = |path: String| {
        root.read(path).unwrap_or_else(|error| {
            log::debug!("{error:#}");
            None
        })
    };
    get(format!("{FOLDER}/{name}"))
        .or_else(|| get(format!("{FW_CFG}/{name}/raw")))
        .or_else(|| find(&get(TABLES.to_owned())?, name))
}

fn find(tables: &[u8], name: &str) -> Option<Vec<u8>> {
    oem_strings(tables).into_iter().find_map(|text| {
        let rest = text.strip_prefix(b"io.systemd.credential")?;
        let (is_binary, rest) = match rest.strip_prefix(b".binary") {
            Some(rest) => (true, rest),
            None => (false, rest),
        };
        let value = rest.strip_prefix(b":")?.strip_prefix(name.as_bytes())?;
        let value = value.strip_prefix(b"=")?;
        match is_binary {
            true => STANDARD.decode(value.trim_ascii()).ok(),
            false => Some(value.to_vec()),
        }
    })
}

/// A structure is a header with its type and length, fields of that length, and strings that each
/// end with a zero; one more zero ends them, and without strings two do.
fn oem_strings(mut tables: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let [kind, length, ..] = *tables {
        let length = usize::from(length);
        let Some(strings) = tables.get(length..).filter(|_| length >= 4) else {
            break;
        };
        let Some(end) = strings.windows(2).position(|two| two == [0, 0]) else {
            break;
        };
        if kind == OEM_STRINGS {
            found.extend(strings[..end].split(|byte| *byte == 0));
        }
        if kind == END_OF_TABLE {
            break;
        }
        tables = &strings[end + 2..];
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn structure(kind: u8, strings: &[&str]) -> Vec<u8> {
        let mut bytes = vec![kind, 5, 0, 0, strings.len() as u8];
        for text in strings {
            bytes.extend_from_slice(text.as_bytes());
            bytes.push(0);
        }
        if strings.is_empty() {
            bytes.push(0);
        }
        bytes.push(0);
        bytes
    }

    fn tables() -> Vec<u8> {
        let oem = [
            "a string of the maker",
            "io.systemd.credential:a=x=y",
            "io.systemd.credential.binary:b=AAEC",
            "io.systemd.credential.binary:bad=!",
            "io.systemd.credential:longer=1",
        ];
        [
            structure(1, &["io.systemd.credential:a=of another structure"]),
            structure(4, &[]),
            structure(OEM_STRINGS, &oem),
            structure(OEM_STRINGS, &["io.systemd.credential:second=2"]),
            structure(END_OF_TABLE, &[]),
            structure(OEM_STRINGS, &["io.systemd.credential:late=3"]),
        ]
        .concat()
    }

    #[test]
    fn credential_is_found_in_the_strings_of_the_firmware() {
        let tables = tables();
        let get = |name: &str| find(&tables, name);
        assert_eq!(get("a").as_deref(), Some(&b"x=y"[..]));
        assert_eq!(get("b").as_deref(), Some(&[0, 1, 2][..]));
        assert_eq!(get("second").as_deref(), Some(&b"2"[..]));
        for name in ["bad", "long", "late", ""] {
            assert_eq!(get(name), None, "{name}");
        }
    }

    #[test]
    fn cut_table_is_read_as_far_as_it_goes() {
        let tables = tables();
        for end in 0..tables.len() {
            let found = find(&tables[..end], "a");
            assert!(found.is_none() || found.as_deref() == Some(b"x=y"));
        }
        assert_eq!(oem_strings(&[OEM_STRINGS, 0, 0, 0, 0, 0]), [b""; 0]);
    }

    #[test]
    fn places_are_read_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::new(dir.path());
        let write = |path: &str, bytes: &[u8]| root.write_volatile(path, bytes).unwrap();
        assert_eq!(read(&root, "a"), None);
        write(TABLES, &tables());
        assert_eq!(read(&root, "a").as_deref(), Some(&b"x=y"[..]));
        write(&format!("{FW_CFG}/a/raw"), b"fw_cfg");
        assert_eq!(read(&root, "a").as_deref(), Some(&b"fw_cfg"[..]));
        write(&format!("{FOLDER}/a"), b"systemd");
        assert_eq!(read(&root, "a").as_deref(), Some(&b"systemd"[..]));
    }
}

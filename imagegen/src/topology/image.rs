//! Options of the node image.

use userdata::image_info::ImpossibleKeys;

use crate::image::uki;
use crate::plan::{DisklessPlan, ImagePlan, Kernel, SecureBootPlan};

use super::ImageTopology;
use super::findings::Findings;
use super::value::Invalid;

/// The plan of the image.
pub(super) fn check(given: &ImageTopology, f: &mut Findings<'_>) -> ImagePlan {
    /// Set by imagegen. With a second value the machine would not find its root.
    const RESERVED: [&str; 7] = [
        "root",
        "roothash",
        "usrhash",
        "init",
        "rd.systemd.verity",
        "systemd.verity",
        "console",
    ];
    let kernel = match given.kernel.as_deref() {
        None | Some("generic") => Kernel::Generic,
        Some("cloud") => Kernel::Cloud,
        Some(other) => {
            let meant = yaml::nearest(other, ["generic", "cloud"]);
            let help = meant.map_or("write `generic` or `cloud`".to_owned(), |meant| {
                format!("write `{meant}`")
            });
            f.error("image.kernel", format!("unknown kernel `{other}`"), help);
            Kernel::Generic
        }
    };
    let cmdline = f.all("image.cmdline", &given.cmdline, |text| {
        let key = text.split('=').next().unwrap_or_default();
        if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            Err(Invalid::new(
                "not one argument of the kernel",
                "write one argument per item, without spaces",
            ))
        } else if given.secure_boot.is_some() && uki::is_unsafe(text) {
            Err(Invalid::new(
                format!("`{key}` would let a signed image run what nobody signed"),
                "remove this item, or `image.secure_boot`",
            ))
        } else if key == "console" {
            Err(Invalid::new(
                "consoles have their own key",
                "write it under `image.console`",
            ))
        } else if RESERVED
            .iter()
            .any(|name| key == *name || key.starts_with(&format!("{name}_")))
            || key.starts_with("firstlight.") && key != "firstlight.seed"
        {
            Err(Invalid::new(
                format!("`{key}` is set by imagegen for the verified root"),
                "remove this item",
            ))
        } else {
            Ok(text.to_owned())
        }
    });
    let console = f.all("image.console", &given.console, |text| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b',';
        if !text.is_empty() && text.bytes().all(inner) {
            Ok(text.to_owned())
        } else {
            Err(Invalid::new(
                "not a console",
                "write `tty0` or `ttyS0,115200n8`",
            ))
        }
    });
    let console = if given.console.is_empty() {
        vec!["tty0".to_owned(), "ttyS0,115200n8".to_owned()]
    } else {
        console
    };
    ImagePlan {
        kernel,
        impossible_keys: impossible_keys(given, f),
        cmdline,
        console,
        secure_boot: secure_boot(given, f),
        seeds: seeds(given, f),
        diskless: DisklessPlan {
            blank_disks: given.diskless.blank_disks,
            memory_masters: given.diskless.memory_masters,
        },
    }
}

fn seeds(given: &ImageTopology, f: &mut Findings<'_>) -> bool {
    match given.seeds.as_deref() {
        None | Some("none") => false,
        Some("all") => true,
        Some(other) => {
            let message = format!("unknown choice of seeds `{other}`");
            f.error("image.seeds", message, "write `all` or `none`");
            false
        }
    }
}

fn impossible_keys(given: &ImageTopology, f: &mut Findings<'_>) -> ImpossibleKeys {
    match given.impossible_keys.as_deref() {
        None | Some("report") => ImpossibleKeys::Report,
        Some("refuse") => ImpossibleKeys::Refuse,
        Some(other) => {
            f.error(
                "image.impossible_keys",
                format!("`{other}` is nothing to do with keys"),
                "write `report` or `refuse`",
            );
            ImpossibleKeys::Report
        }
    }
}

/// The files themselves are read where the image is made: documents need neither.
fn secure_boot(given: &ImageTopology, f: &mut Findings<'_>) -> Option<SecureBootPlan> {
    let given = given.secure_boot.as_ref()?;
    let mut path = |name: &str, value: &Option<String>| {
        let value = value.clone().unwrap_or_default();
        if value.is_empty() {
            f.missing(
                &format!("image.secure_boot.{name}"),
                format!("write the path of the {name} in PEM"),
            );
        }
        value
    };
    Some(SecureBootPlan {
        key: path("key", &given.key),
        certificate: path("certificate", &given.certificate),
    })
}

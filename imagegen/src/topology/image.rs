//! Options of the node image.

use userdata::image_info::ImpossibleKeys;
use userdata::state_info::Encryption;

use crate::plan::{DisklessPlan, ImagePlan, Kernel, SecureBootPlan};

use super::findings::Findings;
use super::{ImageTopology, hardware};

/// The plan of the image.
pub(super) fn check(given: &ImageTopology, f: &mut Findings<'_>) -> ImagePlan {
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
    let is_signed = given.secure_boot.is_some();
    let argument = |text: &str| hardware::kernel_argument(text, is_signed);
    let mut cmdline = f.all("image.cmdline", &given.cmdline, argument);
    let more = f.all("image.kernel_arguments", &given.kernel_arguments, argument);
    cmdline.extend(more);
    let console = f.all("image.console", &given.console, hardware::console);
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
        firmware: f.all("image.firmware", &given.firmware, hardware::firmware),
        modules: f.all("image.modules", &given.modules, hardware::module),
        packages: f.all("image.packages", &given.packages, hardware::package),
        secure_boot: secure_boot(given, f),
        seeds: seeds(given, f),
        encrypt: encryption(given, f),
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

fn encryption(given: &ImageTopology, f: &mut Findings<'_>) -> Encryption {
    const KEY: &str = "image.state.encrypt";
    match given.state.encrypt.as_deref() {
        None | Some("none") => return Encryption::None,
        Some("tpm2") => {}
        Some(other) => {
            let message = format!("unknown encryption of the state `{other}`");
            f.error(KEY, message, "write `tpm2` or `none`");
            return Encryption::None;
        }
    }
    if given.diskless.blank_disks {
        let message = "state on the disk of a machine that boots from the network is not encrypted";
        let help = "remove `image.diskless.blank_disks`, or flash the disk with the image";
        f.error(KEY, message, help);
    }
    if given.seeds.as_deref() == Some("all") {
        let message =
            "every disk would have the recovery keys of all hosts beside the encrypted state";
        let help = "remove `image.seeds`, and give each host its own document";
        f.error(KEY, message, help);
    }
    if given.secure_boot.is_none() {
        let message = "without Secure Boot the TPM protects only a disk away from its machine";
        let help = "another system that boots on the machine opens the state: set \
                    `image.secure_boot`";
        f.warning(KEY, message, help);
    }
    Encryption::Tpm2
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

//! The units of the status port agree with the contract.

use std::fs;
use std::path::Path;

use userdata::contract::STATUS_PORT;

#[test]
fn units_use_the_paths_and_port_of_the_contract() {
    let unit = |name: &str| {
        fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("systemd")
                .join(name),
        )
        .unwrap()
    };
    assert!(unit("firstboot-status.socket").contains(&format!("\nListenStream={STATUS_PORT}\n")));
    let listens = format!("PathExists={}", userdata::contract::STATUS_KEY);
    for name in ["firstboot-status.socket", "firstboot-status.path"] {
        assert!(unit(name).contains(&listens), "{name}");
    }
    let service = unit("firstboot-status.service");
    for line in [
        format!(
            "LoadCredential=certificate:{}",
            userdata::contract::STATUS_CERTIFICATE
        ),
        format!("LoadCredential=key:{}", userdata::contract::STATUS_KEY),
        format!(
            "LoadCredential=clients:{}",
            userdata::contract::CLIENT_AUTHORITIES
        ),
        // Without it the service fails on a host whose document has no such file.
        "SetCredential=clients:none".to_owned(),
    ] {
        assert!(service.lines().any(|found| found == line), "{line}");
    }
}

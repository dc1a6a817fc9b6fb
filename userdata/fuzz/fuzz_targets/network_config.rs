//! Any text as `network-config`; what is accepted renders as systemd-networkd units.
#![no_main]

use libfuzzer_sys::fuzz_target;
use userdata::network::Network;

fuzz_target!(|text: &str| match Network::parse("network-config", text) {
    Ok((network, _)) => {
        let _ = network.map(|network| network.to_networkd());
    }
    Err(findings) => {
        let _ = findings.to_string();
    }
});

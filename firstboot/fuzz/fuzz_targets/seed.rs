//! Any bytes as the four files of a seed: a host or findings, never a panic; findings print, and
//! hold no line of the document.
#![no_main]

use firstboot::host::understand;
use firstboot::source::Seed;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut files = bytes.splitn(4, |byte| *byte == 0).map(<[u8]>::to_vec);
    let seed = Seed {
        origin: "fuzz".to_owned(),
        user_data: files.next().unwrap_or_default(),
        meta_data: files.next().unwrap_or_default(),
        network_config: files.next(),
        vendor_data: files.next(),
    };
    match understand(&seed) {
        Ok((host, notices)) => {
            let _ = format!("{host:?}");
            for notice in notices {
                let _ = notice.one_line();
            }
        }
        Err(error) => {
            let _ = format!("{error:#}");
        }
    }
});

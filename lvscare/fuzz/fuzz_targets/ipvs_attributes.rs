//! Any bytes as the kernel's IPVS answer: attributes or an error, never a panic; what is read converts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use lvscare::ipvs::attributes::{
    DestinationAttribute, InfoAttribute, ServiceAttribute, StatsAttribute, Attribute, parse_all,
};
use lvscare::ipvs::Service;

fuzz_target!(|bytes: &[u8]| {
    let _ = parse_all::<Attribute>(bytes);
    let _ = parse_all::<DestinationAttribute>(bytes);
    let _ = parse_all::<StatsAttribute>(bytes);
    let _ = parse_all::<InfoAttribute>(bytes);
    if let Ok(attributes) = parse_all::<ServiceAttribute>(bytes) {
        let _ = Service::from_attributes(&attributes);
    }
});

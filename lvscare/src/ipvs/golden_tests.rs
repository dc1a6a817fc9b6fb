//! The codec against the bytes of Debian's `ipvsadm` 1.31 and of kernel 6.12, taken with `strace`
//! in a guest.

use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlHeader, GenlMessage};
use proptest::prelude::*;

use super::attributes::{Attribute, Nested};
use super::{Body, Command, Destination, Identity, IpvsMessage, Service};

const NEW_SERVICE: &str = "010100005400018006000100020000000600020006000000140003000a6761020000000000000000\
    0000000006000400192b000007000600727200000c00070000000000ffffffff080008000000000008000900ffffffff";
const NEW_SERVICE_V6: &str = "0101000054000180060001000a000000060002000600000014000300fd970000000000000000\
    00000000000206000400192b000007000600727200000c00070000000000ffffffff08000800000000000800090080000000";
const NEW_SERVICE_MARK: &str = "01010000380001800600010002000000080005000700000008000600776c63000c000700000000\
    00ffffffff080008000000000008000900ffffffff";
const GET_DESTINATIONS: &str = "080100003000018006000100020000000600020006000000140003000a676102000000000000\
    00000000000006000400192b0000";
const NEW_DESTINATION: &str = "050100005400018006000100020000000600020006000000140003000a676102000000000000000\
    00000000006000400192b000005000600000000000c00070000000000ffffffff080008000000000008000900ffffffff600002800600\
    0b000200000014000100c0a8070a00000000000000000000000006000200192b0000080003000000000008000400010000000500\
    0d000000000006000e000000000006000f000000000008000500000000000800060000000000";
/// One entry of a kernel dump: a firewall mark, with the kernel's flag and both sets of counters.
const LISTED_MARK: &str = "01010000100101000600010002000000080005000700000008000600776c63000c00070002000000ffff\
    ffff080008000000000008000900ffffffff5c000a000800010000000000080002000000000008000300000000000c0004000000000000\
    0000000c0005000000000000000000080006000000000008000700000000000800080000000000080009000000000008000a0000000000\
    7c000c000c00010000000000000000000c00020000000000000000000c00030000000000000000000c00040000000000000000000c0005\
    0000000000000000000c00060000000000000000000c00070000000000000000000c00080000000000000000000c000900000000000000\
    00000c000a000000000000000000";
const INFO: &str = "0e01000008000100010201000800020000100000";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .filter_map(|c| c.to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn decode(hex: &str) -> IpvsMessage {
    let bytes = bytes(hex);
    let header = GenlHeader::parse(&bytes).unwrap();
    IpvsMessage::parse_with_param(&bytes[4..], header).unwrap()
}

fn encode(message: IpvsMessage) -> Vec<u8> {
    let message = GenlMessage::from_payload(message);
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

fn table(message: &IpvsMessage) -> &[Attribute] {
    match &message.body {
        Body::Table(attributes) => attributes,
        Body::Info(_) => panic!("{message:?}"),
    }
}

#[test]
fn our_requests_are_ipvsadms_byte_for_byte() {
    let vip = "10.103.97.2:6443".parse().unwrap();
    let new = |service: Service| {
        let nested = Attribute::Service(Nested(service.attributes()));
        encode(IpvsMessage::request(Command::NEW_SERVICE, vec![nested]))
    };
    assert_eq!(new(Service::tcp(vip, "rr")), bytes(NEW_SERVICE));
    assert_eq!(
        new(Service::tcp("[fd97::2]:6443".parse().unwrap(), "rr")),
        bytes(NEW_SERVICE_V6)
    );
    let mark = Identity::FwMark { family: 2, mark: 7 };
    assert_eq!(
        new(Service {
            identity: mark,
            ..Service::tcp(vip, "wlc")
        }),
        bytes(NEW_SERVICE_MARK)
    );
    let nested = Attribute::Service(Nested(Identity::tcp(vip).attributes()));
    assert_eq!(
        encode(IpvsMessage::request(Command::GET_DESTINATION, vec![nested])),
        bytes(GET_DESTINATIONS)
    );
}

#[test]
fn ipvsadm_destination_round_trips() {
    let message = decode(NEW_DESTINATION);
    let [Attribute::Service(_), Attribute::Destination(nested)] = table(&message) else {
        panic!("{message:?}")
    };
    let found = Destination::from_attributes("10.103.97.2:6443".parse().unwrap(), &nested.0);
    assert_eq!(
        found,
        Some(Destination::masquerade(
            "192.168.7.10:6443".parse().unwrap(),
            1
        ))
    );
    // The tunnel attributes are unknown to the codec.
    assert_eq!(encode(message), bytes(NEW_DESTINATION));
}

#[test]
fn kernel_owned_flag_is_ignored_when_reading() {
    let message = decode(LISTED_MARK);
    let [Attribute::Service(nested)] = table(&message) else {
        panic!("{message:?}")
    };
    let expected = Service {
        identity: Identity::FwMark { family: 2, mark: 7 },
        ..Service::tcp("10.103.97.2:6443".parse().unwrap(), "wlc")
    };
    assert_eq!(Service::from_attributes(&nested.0), expected);
}

#[test]
fn the_kernels_info_has_attributes_of_its_own() {
    let message = decode(INFO);
    let Body::Info(attributes) = &message.body else {
        panic!("{message:?}")
    };
    let info = super::Info::from_attributes(attributes);
    assert_eq!(
        (info.version, info.connection_table_size),
        (0x01_02_01, 4096)
    );
}

proptest! {
    /// Corrupted bytes give an error or a value that round-trips.
    #[test]
    fn no_change_of_real_bytes_makes_the_parser_panic_or_waver(
        which in 0usize..6,
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<proptest::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = bytes([NEW_SERVICE, NEW_SERVICE_V6, NEW_SERVICE_MARK, NEW_DESTINATION, LISTED_MARK, INFO][which]);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if is_cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let Ok(header) = GenlHeader::parse(&bytes) else { return Ok(()) };
        let Ok(message) = IpvsMessage::parse_with_param(&bytes[4..], header) else { return Ok(()) };
        if let Body::Table(attributes) = &message.body {
            for attribute in attributes {
                match attribute {
                    Attribute::Service(nested) => drop(Service::from_attributes(&nested.0)),
                    Attribute::Destination(nested) => {
                        let _ = Destination::from_attributes("10.103.97.2:6443".parse().unwrap(), &nested.0);
                    }
                    Attribute::Other(_) => {}
                }
            }
        }
        let again = encode(message);
        let header = GenlHeader::parse(&again).unwrap();
        let message = IpvsMessage::parse_with_param(&again[4..], header).unwrap();
        prop_assert_eq!(encode(message), again);
    }
}

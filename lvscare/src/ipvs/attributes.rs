//! IPVS netlink attributes, one enum per nesting level.
//!
//! Bytes to values and back only: an attribute that is unknown or has another length becomes
//! `Other` and is written back unchanged. `types` interprets sets of attributes.

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLA_F_NESTED, Nla, NlaBuffer, NlasIterator, Parseable,
    emit_u16, emit_u16_be, emit_u32, emit_u64,
};

/// Declares one level: `Name(Type) = kind`, with the encoding of each value.
macro_rules! attributes {
    ($(#[$doc:meta])* $level:ident { $($name:ident($type:ty) = $kind:expr,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum $level {
            $($name($type),)+
            /// Unknown, or of another length: kept unchanged.
            Other(DefaultNla),
        }

        impl Nla for $level {
            fn value_len(&self) -> usize {
                match self {
                    $(Self::$name(value) => Value::length(value),)+
                    Self::Other(other) => other.value_len(),
                }
            }

            fn kind(&self) -> u16 {
                match self {
                    $(Self::$name(_) => $kind | <$type as Value>::FLAG,)+
                    Self::Other(other) => other.kind(),
                }
            }

            fn emit_value(&self, buffer: &mut [u8]) {
                match self {
                    $(Self::$name(value) => Value::write(value, buffer),)+
                    Self::Other(other) => other.emit_value(buffer),
                }
            }
        }

        impl<'a> Parseable<NlaBuffer<&'a [u8]>> for $level {
            fn parse(buffer: &NlaBuffer<&'a [u8]>) -> Result<Self, DecodeError> {
                let value = buffer.value();
                let known = match buffer.kind() {
                    $($kind => <$type as Value>::read(value).map(Self::$name),)+
                    _ => None,
                };
                match known {
                    Some(attribute) => Ok(attribute),
                    None => DefaultNla::parse(buffer).map(Self::Other),
                }
            }
        }
    };
}

attributes! {
    /// Top level of every command except the response to `GET_INFO`.
    Attribute {
        Service(Nested<ServiceAttribute>) = 1,
        Destination(Nested<DestinationAttribute>) = 2,
    }
}

attributes! {
    /// A virtual server. `NEW` and `SET` need the scheduler, flags, timeout and netmask as well as
    /// the identity.
    ServiceAttribute {
        Family(u16) = 1,
        Protocol(u16) = 2,
        Address(Address) = 3,
        Port(BigEndian) = 4,
        FwMark(u32) = 5,
        Scheduler(Text) = 6,
        Flags(Flags) = 7,
        Timeout(u32) = 8,
        // IPv4: the mask in network byte order. IPv6: the prefix length in native byte order.
        Netmask(u32) = 9,
        PersistenceEngine(Text) = 11,
        Stats64(Nested<StatsAttribute>) = 12,
    }
}

attributes! {
    /// A real server. `NEW` and `SET` need the first six.
    DestinationAttribute {
        Address(Address) = 1,
        Port(BigEndian) = 2,
        Forwarding(u32) = 3,
        Weight(u32) = 4,
        UpperThreshold(u32) = 5,
        LowerThreshold(u32) = 6,
        ActiveConnections(u32) = 7,
        InactiveConnections(u32) = 8,
        PersistentConnections(u32) = 9,
        Family(u16) = 11,
        Stats64(Nested<StatsAttribute>) = 12,
    }
}

attributes! {
    /// 64-bit counters. The 32-bit set (attribute 10) has the same values and stays `Other`.
    StatsAttribute {
        Connections(u64) = 1,
        InPackets(u64) = 2,
        OutPackets(u64) = 3,
        InBytes(u64) = 4,
        OutBytes(u64) = 5,
    }
}

attributes! {
    /// Top level of the response to `GET_INFO`, which has its own attribute numbers.
    InfoAttribute {
        Version(u32) = 1,
        ConnectionTableSize(u32) = 2,
    }
}

attributes! {
    /// Top level of the generic netlink controller's response about one family.
    FamilyAttribute {
        Id(u16) = 1,
        Name(Text) = 2,
    }
}

/// Parses a sequence of attributes; only an invalid length is an error.
pub fn parse_all<A>(bytes: &[u8]) -> Result<Vec<A>, DecodeError>
where
    A: for<'a> Parseable<NlaBuffer<&'a [u8]>>,
{
    NlasIterator::new(bytes)
        .map(|buffer| A::parse(&buffer?))
        .collect()
}

/// The encoding of a value in an attribute.
trait Value: Sized {
    /// Flag bits of the attribute's kind.
    const FLAG: u16 = 0;
    fn length(&self) -> usize;
    /// `buffer` has exactly `length` bytes.
    fn write(&self, buffer: &mut [u8]);
    /// `None`: no valid value of this type.
    fn read(bytes: &[u8]) -> Option<Self>;
}

/// Attributes inside an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nested<A>(pub Vec<A>);

impl<A> Value for Nested<A>
where
    A: Nla + for<'a> Parseable<NlaBuffer<&'a [u8]>>,
{
    const FLAG: u16 = NLA_F_NESTED;

    fn length(&self) -> usize {
        self.0.as_slice().buffer_len()
    }

    fn write(&self, buffer: &mut [u8]) {
        self.0.as_slice().emit(buffer);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        parse_all(bytes).ok().map(Self)
    }
}

/// `union nf_inet_addr`: always 16 bytes, IPv4 in the first four.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address(pub [u8; 16]);

impl Value for Address {
    fn length(&self) -> usize {
        self.0.len()
    }

    fn write(&self, buffer: &mut [u8]) {
        buffer.copy_from_slice(&self.0);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut address = [0; 16];
        // ipvsadm sends 16 bytes for IPv4 too; other programs send four.
        address.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self(address))
    }
}

/// A port, the only big-endian number in this family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BigEndian(pub u16);

impl Value for BigEndian {
    fn length(&self) -> usize {
        2
    }

    fn write(&self, buffer: &mut [u8]) {
        emit_u16_be(buffer, self.0).unwrap_or_default();
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self(u16::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// A NUL-terminated name, shorter than 16 bytes in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text(pub String);

impl Value for Text {
    fn length(&self) -> usize {
        self.0.len() + 1
    }

    fn write(&self, buffer: &mut [u8]) {
        let (text, end) = buffer.split_at_mut(self.0.len());
        text.copy_from_slice(self.0.as_bytes());
        end.fill(0);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let text = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        // Bytes with a NUL or invalid UTF-8 would not round-trip.
        if text.contains(&0) {
            return None;
        }
        String::from_utf8(text.to_vec()).ok().map(Self)
    }
}

/// `struct ip_vs_flags`: `mask` selects the valid bits of `flags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags {
    pub flags: u32,
    pub mask: u32,
}

impl Value for Flags {
    fn length(&self) -> usize {
        8
    }

    fn write(&self, buffer: &mut [u8]) {
        let (flags, mask) = buffer.split_at_mut(4);
        Value::write(&self.flags, flags);
        Value::write(&self.mask, mask);
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (flags, mask) = bytes.split_at_checked(4)?;
        Some(Self {
            flags: Value::read(flags)?,
            mask: Value::read(mask)?,
        })
    }
}

macro_rules! native {
    ($($type:ty, $emit:ident;)+) => { $(
        impl Value for $type {
            fn length(&self) -> usize {
                size_of::<Self>()
            }

            fn write(&self, buffer: &mut [u8]) {
                // The buffer has the right length, so this cannot fail.
                $emit(buffer, *self).unwrap_or_default();
            }

            fn read(bytes: &[u8]) -> Option<Self> {
                Some(Self::from_ne_bytes(bytes.try_into().ok()?))
            }
        }
    )+ };
}

native! {
    u16, emit_u16;
    u32, emit_u32;
    u64, emit_u64;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bytes<A: Nla>(attributes: &[A]) -> Vec<u8> {
        let mut buffer = vec![0; attributes.buffer_len()];
        attributes.emit(&mut buffer);
        buffer
    }

    #[test]
    fn attribute_of_unexpected_length_is_kept_verbatim() {
        // WEIGHT with eight bytes, as a later kernel might send it.
        let later = [12, 0, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        let parsed: Vec<DestinationAttribute> = parse_all(&later).unwrap();
        assert!(matches!(
            parsed.as_slice(),
            [DestinationAttribute::Other(_)]
        ));
        assert_eq!(bytes(&parsed), later);
    }

    #[test]
    fn nesting_is_read_with_and_without_its_flag() {
        let flagged = [12, 0, 1, 0x80, 6, 0, 1, 0, 2, 0, 0, 0];
        let plain = [12, 0, 1, 0, 6, 0, 1, 0, 2, 0, 0, 0];
        let expected = vec![Attribute::Service(Nested(vec![ServiceAttribute::Family(
            2,
        )]))];
        assert_eq!(parse_all::<Attribute>(&flagged).unwrap(), expected);
        assert_eq!(parse_all::<Attribute>(&plain).unwrap(), expected);
    }

    #[test]
    fn a_truncated_attribute_is_an_error_and_not_a_panic() {
        assert!(parse_all::<Attribute>(&[12, 0, 1, 0, 6, 0]).is_err());
    }

    fn service() -> impl Strategy<Value = ServiceAttribute> {
        prop_oneof![
            any::<u16>().prop_map(ServiceAttribute::Family),
            any::<[u8; 16]>().prop_map(|address| ServiceAttribute::Address(Address(address))),
            any::<u16>().prop_map(|port| ServiceAttribute::Port(BigEndian(port))),
            any::<u32>().prop_map(ServiceAttribute::FwMark),
            "[a-z_]{0,15}".prop_map(|name| ServiceAttribute::Scheduler(Text(name))),
            any::<(u32, u32)>()
                .prop_map(|(flags, mask)| ServiceAttribute::Flags(Flags { flags, mask })),
            any::<u64>()
                .prop_map(|n| ServiceAttribute::Stats64(Nested(vec![StatsAttribute::InBytes(n)]))),
            (100u16..200, proptest::collection::vec(any::<u8>(), 0..40))
                .prop_map(|(kind, value)| ServiceAttribute::Other(DefaultNla::new(kind, value))),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(attributes in proptest::collection::vec(service(), 0..8)) {
            prop_assert_eq!(parse_all::<ServiceAttribute>(&bytes(&attributes)).unwrap(), attributes);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_all::<Attribute>(&bytes);
            let _ = parse_all::<ServiceAttribute>(&bytes);
            let _ = parse_all::<DestinationAttribute>(&bytes);
            let _ = parse_all::<InfoAttribute>(&bytes);
        }
    }
}

//! Writes a bbolt database, the format of containerd's metadata: nested buckets of sorted keys.
//!
//! The writer exists because the known Rust port names no licence. It writes a database once and
//! whole, with the same bytes for the same buckets; containerd itself reads and updates it after
//! boot. Every bucket gets its own root page: bbolt inlines small buckets only to save space, and
//! does so when it first rewrites them. Format: go.etcd.io/bbolt `page.go`, `bucket.go`, `db.go`;
//! all integers are little-endian.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};

const PAGE_SIZE: usize = 4096;
const PAGE_HEADER: usize = 16;
const ELEMENT: usize = 16;

const BRANCHLESS_LEAF: u16 = 0x02;
const META: u16 = 0x04;
const FREELIST: u16 = 0x10;
const BUCKET_ELEMENT: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// Pages 0 and 1 are the two metas, page 2 the (empty) freelist.
const FIRST_DATA_PAGE: u64 = 3;

/// One bucket: keys to values or to further buckets, and the counter behind bbolt's `NextSequence`.
#[derive(Debug, Clone, Default)]
pub struct Bucket {
    values: BTreeMap<Vec<u8>, Vec<u8>>,
    buckets: BTreeMap<Vec<u8>, Bucket>,
    sequence: u64,
}

impl Bucket {
    /// Sets a value and replaces whatever `key` had.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        let key = key.into();
        self.buckets.remove(&key);
        self.values.insert(key, value.into());
    }

    /// The bucket at `key`, created if missing.
    pub fn bucket(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        let key = key.into();
        self.values.remove(&key);
        self.buckets.entry(key).or_default()
    }

    /// The bucket at the end of `path`.
    pub fn at(&mut self, path: &[&str]) -> &mut Self {
        path.iter().fold(self, |bucket, key| bucket.bucket(*key))
    }

    /// What `NextSequence` last returned.
    pub fn set_sequence(&mut self, sequence: u64) {
        self.sequence = sequence;
    }
}

/// The bytes of a database with `root`. A bucket must fit one leaf page, since the writer has no
/// branch pages: more keys or bytes than bbolt can count in one page are an error.
pub fn serialize(root: &Bucket) -> Result<Vec<u8>> {
    let mut pages = Pages { data: Vec::new() };
    let root_page = pages.write_bucket(root)?;
    let high_water = FIRST_DATA_PAGE + (pages.data.len() / PAGE_SIZE) as u64;

    let mut file = Vec::with_capacity(pages.data.len() + 3 * PAGE_SIZE);
    for number in 0..2 {
        let mut page = page_header(number, META, 0, 0);
        page.extend(meta(root_page, root.sequence, high_water, number));
        page.resize(PAGE_SIZE, 0);
        file.extend(page);
    }
    let mut freelist = page_header(2, FREELIST, 0, 0);
    freelist.resize(PAGE_SIZE, 0);
    file.extend(freelist);
    file.extend(pages.data);
    Ok(file)
}

/// Flags, key and value of an entry in a leaf page.
type Element<'a> = (u32, &'a [u8], Vec<u8>);

struct Pages {
    data: Vec<u8>,
}

impl Pages {
    /// Writes the buckets inside `bucket`, then `bucket`; returns its page number.
    fn write_bucket(&mut self, bucket: &Bucket) -> Result<u64> {
        let values = bucket.values.iter();
        let mut elements: Vec<Element<'_>> = values
            .map(|(key, value)| (0, key.as_slice(), value.clone()))
            .collect();
        for (key, inner) in &bucket.buckets {
            let mut header = self.write_bucket(inner)?.to_le_bytes().to_vec();
            header.extend(inner.sequence.to_le_bytes());
            elements.push((BUCKET_ELEMENT, key, header));
        }
        elements.sort_by_key(|(_, key, _)| *key);
        self.write_leaf(&elements)
    }

    fn write_leaf(&mut self, elements: &[Element<'_>]) -> Result<u64> {
        let number = FIRST_DATA_PAGE + (self.data.len() / PAGE_SIZE) as u64;
        let payload: usize = elements.iter().map(|(_, k, v)| k.len() + v.len()).sum();
        let size = PAGE_HEADER + elements.len() * ELEMENT + payload;
        let overflow = size.div_ceil(PAGE_SIZE) - 1;

        let count = u16::try_from(elements.len()).with_context(|| {
            format!(
                "containerd's metadata has {} keys in one bucket, but a page holds at most \
                 65,535; use fewer images",
                elements.len()
            )
        })?;
        let mut page = page_header(number, BRANCHLESS_LEAF, count, number_of(overflow)?);
        let mut position = PAGE_HEADER + elements.len() * ELEMENT;
        for (index, (flags, key, value)) in elements.iter().enumerate() {
            // An element's offset counts from the element itself.
            let offset = position - (PAGE_HEADER + index * ELEMENT);
            page.extend(flags.to_le_bytes());
            for field in [offset, key.len(), value.len()] {
                page.extend(number_of(field)?.to_le_bytes());
            }
            position += key.len() + value.len();
        }
        for (_, key, value) in elements {
            page.extend_from_slice(key);
            page.extend_from_slice(value);
        }
        page.resize((overflow + 1) * PAGE_SIZE, 0);
        self.data.extend(page);
        Ok(number)
    }
}

fn page_header(number: u64, flags: u16, count: u16, overflow: u32) -> Vec<u8> {
    let mut header = number.to_le_bytes().to_vec();
    header.extend(flags.to_le_bytes());
    header.extend(count.to_le_bytes());
    header.extend(overflow.to_le_bytes());
    header
}

fn meta(root: u64, sequence: u64, high_water: u64, transaction: u64) -> Vec<u8> {
    let mut meta = Vec::new();
    for field in [MAGIC, VERSION, PAGE_SIZE as u32, 0] {
        meta.extend(field.to_le_bytes());
    }
    for field in [root, sequence, 2, high_water, transaction] {
        meta.extend(field.to_le_bytes());
    }
    let checksum = fnv1a(&meta);
    meta.extend(checksum.to_le_bytes());
    meta
}

/// FNV-1a with 64 bits, bbolt's checksum of a meta page.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn number_of(value: usize) -> Result<u32> {
    u32::try_from(value).context("one bucket of containerd's metadata exceeds 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_do_not_depend_on_the_order_of_insertion() -> Result<()> {
        let mut forward = Bucket::default();
        forward.at(&["a", "b"]).put("k", "v");
        forward.put("z", "1");
        let mut backward = Bucket::default();
        backward.put("z", "1");
        backward.at(&["a", "b"]).put("k", "v");
        assert_eq!(serialize(&forward)?, serialize(&backward)?);
        Ok(())
    }

    #[test]
    fn values_and_buckets_are_sorted_together() -> Result<()> {
        let mut root = Bucket::default();
        root.put("a", "1");
        root.bucket("b");
        root.put("c", "2");
        // The inner bucket's page comes first, the root's after it.
        let leaf = &serialize(&root)?[4 * PAGE_SIZE..];
        let keys = PAGE_HEADER + 3 * ELEMENT;
        assert_eq!(&leaf[keys..keys + 2], b"a1");
        assert_eq!(leaf[keys + 2], b'b');
        assert_eq!(&leaf[keys + 19..keys + 21], b"c2");
        Ok(())
    }

    #[test]
    fn later_entry_replaces_value_or_bucket_of_its_key() -> Result<()> {
        let mut root = Bucket::default();
        root.put("k", "v");
        root.bucket("k");
        let mut expected = Bucket::default();
        expected.bucket("k");
        assert_eq!(serialize(&root)?, serialize(&expected)?);
        Ok(())
    }

    #[test]
    fn large_bucket_spans_several_pages() -> Result<()> {
        let mut root = Bucket::default();
        for i in 0..200 {
            root.put(format!("{i:04}"), vec![7; 100]);
        }
        let file = serialize(&root)?;
        assert_eq!(file.len() % PAGE_SIZE, 0);
        let leaf = &file[3 * PAGE_SIZE..];
        assert_eq!(u16::from_le_bytes([leaf[10], leaf[11]]), 200);
        assert_eq!(file.len(), (3 + 1 + leaf[12] as usize) * PAGE_SIZE);
        Ok(())
    }

    #[test]
    fn too_many_keys_are_an_error() {
        let mut root = Bucket::default();
        for i in 0..=u32::from(u16::MAX) {
            root.put(i.to_be_bytes(), "");
        }
        let printed = format!("{:#}", serialize(&root).expect_err("65,536 keys"));
        assert!(printed.contains("65536 keys in one bucket"), "{printed}");
    }
}

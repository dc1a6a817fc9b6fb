//! The contents, in chunks: each has its number and whether it is the last in its nonce.

use ring::aead::{Aad, LessSafeKey, Nonce};

use crate::{Error, KEY, TAG, aead, encrypt, expand};

pub(crate) const NONCE: usize = 16;
const CHUNK: usize = 64 << 10;

pub(crate) fn seal(file_key: &[u8], nonce: &[u8; NONCE], plain: &[u8], file: &mut Vec<u8>) {
    file.extend_from_slice(nonce);
    let key = key(file_key, nonce);
    let mut chunks: Vec<_> = plain.chunks(CHUNK).collect();
    if chunks.is_empty() {
        chunks.push(&[]);
    }
    let last = chunks.len() - 1;
    for (number, chunk) in chunks.into_iter().enumerate() {
        let mut chunk = chunk.to_vec();
        encrypt(&key, chunk_nonce(number, number == last), &mut chunk);
        file.append(&mut chunk);
    }
}

pub(crate) fn open(file_key: &[u8], payload: &[u8]) -> Result<Vec<u8>, Error> {
    let Some((nonce, rest)) = payload.split_first_chunk::<NONCE>() else {
        return Err(Error::Damaged("its contents are cut off"));
    };
    let key = key(file_key, nonce);
    let chunks: Vec<_> = rest.chunks(CHUNK + TAG).collect();
    let Some(last) = chunks.len().checked_sub(1) else {
        return Err(Error::Damaged("its contents are cut off"));
    };
    let mut plain = Vec::with_capacity(rest.len());
    for (number, chunk) in chunks.into_iter().enumerate() {
        let mut chunk = chunk.to_vec();
        let nonce = chunk_nonce(number, number == last);
        let opened = key
            .open_in_place(nonce, Aad::empty(), &mut chunk)
            .map_err(|_| Error::Damaged("its contents were changed or cut off"))?;
        if opened.is_empty() && number > 0 {
            return Err(Error::Damaged("its last part is empty"));
        }
        plain.extend_from_slice(opened);
    }
    Ok(plain)
}

fn key(file_key: &[u8], nonce: &[u8; NONCE]) -> LessSafeKey {
    let mut key = [0; KEY];
    expand(nonce, file_key, b"payload", &mut key);
    aead(&key)
}

fn chunk_nonce(number: usize, is_last: bool) -> Nonce {
    let mut nonce = [0; 12];
    // Eleven bytes; a file in memory has fewer chunks than eight can count.
    nonce[3..11].copy_from_slice(&(number as u64).to_be_bytes());
    nonce[11] = u8::from(is_last);
    Nonce::assume_unique_for_key(nonce)
}

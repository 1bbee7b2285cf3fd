//! Checksums and lengths of the formats that have some, put right after a change.

use super::change::{Chance, change};

/// Nothing to put right.
pub fn plain(_: &mut Vec<u8>) {}

/// Changes a text in a checkpoint's metadata or the entry of a tensor; now and then whatever there is.
pub fn change_checkpoint(bytes: &mut Vec<u8>, other: &[u8], words: &[&str], chance: &mut Chance) {
    if chance.below(8) == 0 || change_entry(bytes, words, chance).is_none() {
        change(bytes, other, words, chance);
    }
}

/// Changes one entry of the header; `None` where that is none.
fn change_entry(bytes: &mut Vec<u8>, words: &[&str], chance: &mut Chance) -> Option<()> {
    let length = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let mut header: serde_json::Value = serde_json::from_slice(bytes.get(8..end)?).ok()?;
    let members = header.as_object_mut()?;
    let entry = if chance.below(3) > 0 {
        let metadata = members.get_mut("__metadata__")?.as_object_mut()?;
        let keys = metadata.len();
        metadata.values_mut().nth(chance.below(keys.max(1)))?
    } else {
        let keys = members.len();
        members.values_mut().nth(chance.below(keys))?
    };
    *entry = match &*entry {
        serde_json::Value::String(text) => {
            let mut text = text.clone().into_bytes();
            change(&mut text, b"0", words, chance);
            String::from_utf8_lossy(&text).into()
        }
        other => {
            let mut text = other.to_string().into_bytes();
            change(&mut text, b"0", &["shape\":[", "data_offsets\":["], chance);
            serde_json::from_slice(&text).unwrap_or_else(|_| other.clone())
        }
    };
    let header = header.to_string().into_bytes();
    bytes.splice(8..end, header.iter().copied());
    bytes[..8].copy_from_slice(&(header.len() as u64).to_le_bytes());
    Some(())
}

/// A checkpoint: the header's length, both BLAKE3 sums.
pub fn checkpoint(bytes: &mut Vec<u8>) {
    let Some(length) = bytes.get(..8) else { return };
    let length = u64::from_le_bytes(length.try_into().unwrap());
    // The header ends before the first byte of the tensors, which a change may have moved.
    let said = 8_u64.saturating_add(length).min(bytes.len() as u64) as usize;
    let end = bytes[..said]
        .iter()
        .rposition(|&b| b == b'}')
        .map_or(said, |p| p + 1);
    let mut header = bytes[8.min(end)..end].to_vec();
    header.resize(header.len().next_multiple_of(8), b' ');
    let data = bytes[said..].to_vec();
    put_hex(&mut header, br#""blake3":""#, &blake3::hash(&data));
    let zeros = blake3::Hash::from_bytes([0; 32]);
    put_hex(&mut header, br#""header_blake3":""#, &zeros);
    let mut all = (header.len() as u64).to_le_bytes().to_vec();
    all.extend(&header);
    let own = blake3::hash(&all);
    put_hex(&mut all, br#""header_blake3":""#, &own);
    all.extend(data);
    *bytes = all;
}

fn put_hex(bytes: &mut [u8], key: &[u8], hash: &blake3::Hash) {
    let place = bytes.windows(key.len()).position(|w| w == key);
    let value = place.and_then(|p| bytes.get_mut(p + key.len()..p + key.len() + 64));
    if let Some(value) = value {
        value.copy_from_slice(hash.to_hex().as_bytes());
    }
}

/// A packed file: its length, the sums of content and header.
pub fn packed(bytes: &mut [u8]) {
    if bytes.len() < 96 {
        return;
    }
    let length = (bytes.len() as u64).to_le_bytes();
    bytes[24..32].copy_from_slice(&length);
    let content = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    let content = content.min(bytes.len() as u64).max(96) as usize;
    let sum = blake3::hash(&bytes[content..]);
    bytes[32..64].copy_from_slice(sum.as_bytes());
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..64]).update(&bytes[96..content]);
    let sum = hasher.finalize();
    bytes[64..96].copy_from_slice(sum.as_bytes());
}

/// An entry of the kernel cache: the sum of what follows it.
pub fn kernel(bytes: &mut [u8]) {
    if bytes.len() >= 40 {
        let sum = blake3::hash(&bytes[40..]);
        bytes[8..40].copy_from_slice(sum.as_bytes());
    }
}

/// A PNG picture: the CRC-32 of every chunk.
pub fn png(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes(head[..4].try_into().unwrap()) as usize;
        let end = at + 8 + length;
        if bytes.len() < end + 4 || !bytes.starts_with(b"\x89PNG") {
            return;
        }
        let mut crc = flate2::Crc::new();
        crc.update(&bytes[at + 4..end]);
        bytes[end..end + 4].copy_from_slice(&crc.sum().to_be_bytes());
        at = end + 4;
    }
}

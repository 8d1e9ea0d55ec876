//! Sparse files as the PAX format has them (GNU tar's `--sparse` with `--format=posix`): a list of the parts that have
//! content, in the header (versions 0.0 and 0.1) or before the content (1.0). Source: GNU tar's manual, "Storing Sparse Files".

use std::io::{self, Read};

use tar::Entry;

/// Parts that one file may have: far more than any file has, and little memory.
const PARTS: usize = 1 << 17;
const BLOCK: usize = 512;
/// The longest number in a list, with the end of its line.
const DIGITS: usize = 21;

/// A sparse file.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    /// Its name where the entry's is made up; None: the entry's own.
    pub(super) name: Option<Vec<u8>>,
    /// How long it is.
    pub(super) size: u64,
    /// Offsets and lengths; `None`: before the content.
    list: Option<Vec<(u64, u64)>>,
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("sparse file: {why}"))
}

fn number(text: &[u8]) -> io::Result<u64> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or_else(|| invalid("a broken number"))
}

/// What an entry says of itself; `None` if it is an ordinary file.
pub(super) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Option<Sparse>> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(None) };
    let mut found = Sparse::default();
    let (mut is_sparse, mut version) = (false, (0, 0));
    // Of version 0.0, which says the same two words again and again.
    let (mut offset, mut parts) = (None, Vec::new());
    for extension in extensions.filter_map(Result::ok) {
        let Some(key) = extension.key_bytes().strip_prefix(b"GNU.sparse.") else { continue };
        is_sparse = true;
        let value = extension.value_bytes();
        match key {
            b"major" => version.0 = number(value)?,
            b"minor" => version.1 = number(value)?,
            b"name" => found.name = Some(value.to_vec()),
            b"size" | b"realsize" => found.size = number(value)?,
            b"map" => {
                let numbers = value.split(|byte| *byte == b',').map(number);
                found.list = Some(pairs(numbers)?);
            }
            b"offset" if offset.is_none() => offset = Some(number(value)?),
            b"numbytes" if parts.len() < PARTS => {
                let offset = offset.take().ok_or_else(|| invalid("a length without a part"))?;
                parts.push((offset, number(value)?));
            }
            b"numblocks" => {}
            _ => return Err(invalid("of a format that is not read")),
        }
    }
    if !is_sparse {
        return Ok(None);
    }
    let fits = match (version, &found.name, &found.list) {
        ((1, 0), Some(_), None) | ((0, 0 | 1), Some(_), Some(_)) => offset.is_none() && parts.is_empty(),
        // The entry has its own name, and the header nothing else to say.
        ((0, 0), None, None) if offset.is_none() => {
            found.list = Some(parts);
            true
        }
        _ => false,
    };
    if fits && found.name.as_ref().is_none_or(|name| !name.is_empty()) {
        Ok(Some(found))
    } else {
        Err(invalid("of a format that is not read"))
    }
}

fn pairs(mut numbers: impl Iterator<Item = io::Result<u64>>) -> io::Result<Vec<(u64, u64)>> {
    let mut pairs = Vec::new();
    while let Some(offset) = numbers.next() {
        let length = numbers.next().ok_or_else(|| invalid("a part without a length"))?;
        if pairs.len() == PARTS {
            return Err(invalid("too many parts"));
        }
        pairs.push((offset?, length?));
    }
    Ok(pairs)
}

impl Sparse {
    /// Its parts in order, none over another and none behind its end. `content` is where the list may be; the first part's
    /// content follows.
    pub(super) fn parts(&mut self, content: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
        let list = match self.list.take() {
            Some(list) => list,
            None => read_list(content)?,
        };
        let mut end = 0;
        for (offset, length) in &list {
            if *offset < end {
                return Err(invalid("parts out of order"));
            }
            let behind = offset.checked_add(*length).filter(|end| *end <= self.size);
            end = behind.ok_or_else(|| invalid("a part behind its end"))?;
        }
        Ok(list)
    }
}

/// Lines of decimal numbers, the first says how many parts follow; then zeroes up to a whole block.
fn read_list(content: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    let mut block = [0; BLOCK];
    let mut at = BLOCK;
    let mut next = || -> io::Result<u64> {
        let mut line = Vec::new();
        loop {
            if at == BLOCK {
                content.read_exact(&mut block)?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return number(&line),
                _ if line.len() == DIGITS => return Err(invalid("a broken number")),
                _ => line.push(byte),
            }
        }
    };
    let count = next()?;
    if count > PARTS as u64 {
        return Err(invalid("too many parts"));
    }
    pairs((0..count * 2).map(|_| next()))
}

//! Changes to bytes such as rot, cuts and liars make.

use arbtest::arbitrary::{Result, Unstructured};

/// Numbers at which decoders change their mind.
const INTS: [u64; 18] = [
    0,
    1,
    2,
    7,
    8,
    127,
    128,
    255,
    256,
    4_095,
    4_096,
    u16::MAX as u64,
    i32::MAX as u64,
    u32::MAX as u64,
    1 << 40,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Longest stretch that one change inserts, removes or copies.
const STRETCH_MAX: usize = 600;

/// A number that is likely to matter, or any.
pub fn int(u: &mut Unstructured<'_>) -> Result<u64> {
    Ok(match u.int_in_range(0..=5)? {
        0 => u.arbitrary()?,
        1 => u64::from(u.arbitrary::<u8>()?),
        2 => u.choose(&INTS)?.wrapping_sub(1),
        _ => *u.choose(&INTS)?,
    })
}

/// Makes up to four changes: flips bits, writes numbers, cuts, removes, inserts, doubles and moves
/// stretches.
pub fn mutate(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=4)? {
        change(u, bytes)?;
    }
    Ok(())
}

fn change(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    let kind = u.int_in_range(0..=11)?;
    if bytes.is_empty() || kind == 0 {
        let at = u.int_in_range(0..=bytes.len())?;
        let count = u.int_in_range(1..=40)?;
        let count = count.min(u.len());
        let new = u.bytes(count)?.to_vec();
        bytes.splice(at..at, new);
        return Ok(());
    }
    let at = u.choose_index(bytes.len())?;
    let count = u.int_in_range(1..=STRETCH_MAX.min(bytes.len() - at))?;
    match kind {
        1..=3 => bytes[at] ^= 1 << u.int_in_range(0..=7)?,
        4 => bytes[at] = u.arbitrary()?,
        5 => write(bytes, at, &int(u)?.to_le_bytes()),
        6 => write(bytes, at, &(int(u)? as u32).to_le_bytes()),
        7 => write(bytes, at, &int(u)?.to_be_bytes()),
        8 => bytes.truncate(at),
        9 => drop(bytes.drain(at..at + count)),
        10 => bytes[at..at + count].fill(*u.choose(&[0, 0xff, b'{', b'['])?),
        _ => {
            let copied = bytes[at..at + count].to_vec();
            let to = u.int_in_range(0..=bytes.len())?;
            bytes.splice(to..to, copied);
        }
    }
    Ok(())
}

fn write(bytes: &mut [u8], at: usize, new: &[u8]) {
    let count = new.len().min(bytes.len() - at);
    bytes[at..at + count].copy_from_slice(&new[..count]);
}

/// The same of a text, which stays one.
pub fn mutate_text(u: &mut Unstructured<'_>, text: &str) -> Result<String> {
    let mut bytes = text.as_bytes().to_vec();
    if u.ratio(1, 3)? {
        // A number in it becomes another one.
        let digits: Vec<usize> =
            (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).collect();
        if !digits.is_empty() {
            let from = *u.choose(&digits)?;
            let count = bytes[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            let new = int(u)?.to_string().into_bytes();
            bytes.splice(from..from + count, new);
        }
    }
    if u.ratio(2, 3)? {
        mutate(u, &mut bytes)?;
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Cuts bytes into pieces, as a connection may deliver them; some are empty.
pub fn pieces<'a>(u: &mut Unstructured<'_>, bytes: &'a [u8]) -> Result<Vec<&'a [u8]>> {
    let mut cuts = Vec::new();
    for _ in 0..u.int_in_range(0..=12)? {
        cuts.push(u.int_in_range(0..=bytes.len())?);
    }
    if u.ratio(1, 8)? && bytes.len() < 1_000 {
        cuts.extend(0..bytes.len());
    }
    cuts.push(bytes.len());
    cuts.sort_unstable();
    let mut from = 0;
    Ok(cuts.into_iter().map(|to| &bytes[std::mem::replace(&mut from, to)..to]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_whole() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            assert_eq!(pieces(u, &bytes)?.concat(), bytes);
            Ok(())
        });
    }

    #[test]
    fn most_changes_change_something() {
        let (mut changed, mut tried) = (0, 0);
        arbtest::arbtest(|u| {
            let mut bytes: Vec<u8> = (0..100).collect();
            mutate(u, &mut bytes)?;
            tried += 1;
            changed += u32::from(bytes != (0..100).collect::<Vec<u8>>());
            Ok(())
        });
        assert!(changed * 10 > tried * 8, "{changed} of {tried}");
    }
}

//! `printf` of kernels: one lane after the other, to standard output.

use super::cx::{Cx, Flow, Inst, lanes};
use super::memory::LOCAL_BASE;

/// The arguments' buffer of one lane, read front to back.
struct Arguments<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Arguments<'_> {
    /// The next value of `size` bytes, aligned to its size.
    fn next(&mut self, size: usize) -> u64 {
        self.at = self.at.next_multiple_of(size);
        let mut wide = [0; 8];
        if let Some(bytes) = self.bytes.get(self.at..self.at + size) {
            wide[..size].copy_from_slice(bytes);
        }
        self.at += size;
        u64::from_le_bytes(wide)
    }
}

/// One conversion: what stands behind `%`, and the value in words.
fn convert(spec: &str, args: &mut Arguments<'_>, text: &dyn Fn(u64) -> String) -> String {
    let Some(kind) = spec.chars().last() else {
        return String::new();
    };
    let long = spec.contains('l') || spec.contains('z') || kind == 'p';
    let flags = spec.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (width, places) = flags
        .split_once('.')
        .map_or((flags, None), |(w, p)| (w, p.parse::<usize>().ok()));
    let digits = width.trim_start_matches(['-', '+', ' ', '#']);
    let size: usize = digits.parse().unwrap_or(0);
    let integer = |args: &mut Arguments<'_>| if long { args.next(8) } else { args.next(4) };
    let plain = match kind {
        'd' | 'i' if long => (integer(args) as i64).to_string(),
        'd' | 'i' => (integer(args) as u32 as i32).to_string(),
        'u' => integer(args).to_string(),
        'x' | 'p' => format!("{:x}", integer(args)),
        'X' => format!("{:X}", integer(args)),
        'o' => format!("{:o}", integer(args)),
        'c' => char::from(args.next(4) as u8).to_string(),
        's' => text(args.next(8)),
        'e' | 'E' => format!("{:.*e}", places.unwrap_or(6), f64::from_bits(args.next(8))),
        'g' | 'G' => f64::from_bits(args.next(8)).to_string(),
        _ => format!("{:.*}", places.unwrap_or(6), f64::from_bits(args.next(8))),
    };
    match (width.contains('-'), digits.starts_with('0') && kind != 's') {
        (true, _) => format!("{plain:<size$}"),
        (_, true) => format!("{plain:0>size$}"),
        _ => format!("{plain:>size$}"),
    }
}

/// A format with its arguments.
fn render(format: &str, args: &mut Arguments<'_>, text: &dyn Fn(u64) -> String) -> String {
    let mut out = String::new();
    let mut rest = format;
    while let Some((before, after)) = rest.split_once('%') {
        out += before;
        if let Some(after) = after.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let end = after
            .find(|c: char| "diuxXopcsfFeEgGaA".contains(c))
            .map_or(after.len(), |n| n + 1);
        out += &convert(&after[..end], args, text);
        rest = &after[end..];
    }
    out + rest
}

/// `vprintf`: the list gives the local offsets of the variables with the format's and the arguments' addresses.
///
/// # Safety
///
/// None beyond the context's.
pub unsafe fn vprintf(cx: &mut Cx<'_>, i: &Inst, m: u32) -> Flow {
    let (format, arguments) = (cx.item(i, 0) as usize, cx.item(i, 1) as usize);
    let size = cx.kernel.local_bytes as usize;
    for l in lanes(m) {
        let local = &cx.warp.local[l * size..(l + 1) * size];
        let word = |at: usize| {
            local
                .get(at..at + 8)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_le_bytes)
        };
        let at = word(arguments).wrapping_sub(LOCAL_BASE) as usize;
        let mut args = Arguments {
            bytes: local.get(at..).unwrap_or(&[]),
            at: 0,
        };
        let launch = cx.launch;
        print!(
            "{}",
            render(&launch.text(word(format)), &mut args, &|a| launch.text(a))
        );
    }
    Flow::Next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conversions() {
        let mut bytes = vec![];
        bytes.extend((-5i32).to_le_bytes());
        bytes.extend(7u32.to_le_bytes());
        bytes.extend(2.5f64.to_le_bytes());
        bytes.extend((1u64 << 40).to_le_bytes());
        bytes.extend(255u32.to_le_bytes());
        let mut args = Arguments {
            bytes: &bytes,
            at: 0,
        };
        let got = render("%d|%03u|%8.2f|%llu|%x|100%%\n", &mut args, &|_| {
            String::new()
        });
        assert_eq!(got, "-5|007|    2.50|1099511627776|ff|100%\n");
    }
}

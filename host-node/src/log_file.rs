//! Reads a container's log: the CRI format, `<RFC 3339 nanos> <stdout|stderr> <P|F> <text>`, one entry a line.
//!
//! [`Reader`] turns bytes of the file into bytes for the user, by the options asked for; [`follow`] drives it over a file that may still
//! grow, or be renamed and begun anew. `P` entries are parts of one line: only `F` ends it. Invariant: memory stays bounded whatever the container writes: an
//! entry longer than [`ENTRY_BYTES_MAX`] is cut, and tailing reads backwards in blocks.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::error::{Result, Step};

/// Longest entry that is kept whole.
pub const ENTRY_BYTES_MAX: usize = 256 << 10;
const BLOCK_BYTES: usize = 32 << 10;
/// How often a followed file is looked at again.
const FOLLOW_PERIOD: Duration = Duration::from_millis(100);
/// How many times a log that is not there is looked for again, 5 ms apart.
const ROTATION_PATIENCE: u32 = 10;

/// Which part of a log to show, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Go on when the end is reached.
    pub follow: bool,
    /// Put the time before each line.
    pub timestamps: bool,
    /// The last so many lines; `None`: all.
    pub tail_lines: Option<u64>,
    /// Stop after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Entries from this moment on.
    pub since: Option<Timestamp>,
    /// `stdout` or `stderr` only.
    pub stream: Option<&'static str>,
}

/// Turns the file's bytes into the user's.
pub struct Reader {
    options: Options,
    pending: Vec<u8>,
    line_open: bool,
    left: Option<u64>,
}

impl Reader {
    /// A reader that has seen nothing yet.
    pub fn new(options: Options) -> Self {
        Self { left: options.limit_bytes, options, pending: Vec::new(), line_open: false }
    }

    /// Takes bytes of the file, gives bytes for the user.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            if self.pending.len() + piece.len() <= ENTRY_BYTES_MAX {
                self.pending.extend_from_slice(piece);
            }
            if piece.ends_with(b"\n") {
                let entry = std::mem::take(&mut self.pending);
                self.entry(&entry, out);
            }
        }
    }

    /// Whether limitBytes is used up.
    pub fn is_done(&self) -> bool {
        self.left == Some(0)
    }

    fn entry(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let Some(entry) = Entry::parse(line) else { return };
        if self.options.stream.is_some_and(|wanted| wanted != entry.stream) {
            return;
        }
        if let Some(since) = self.options.since
            && entry.time.parse::<Timestamp>().is_ok_and(|at| at < since)
        {
            return;
        }
        if self.options.timestamps && !self.line_open {
            self.put(entry.time.as_bytes(), out);
            self.put(b" ", out);
        }
        self.put(entry.text, out);
        if entry.full {
            self.put(b"\n", out);
        }
        self.line_open = !entry.full;
    }

    fn put(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        let take = self.left.map_or(bytes.len(), |left| bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        out.extend_from_slice(&bytes[..take]);
        if let Some(left) = &mut self.left {
            *left -= take as u64;
        }
    }
}

struct Entry<'a> {
    time: &'a str,
    stream: &'a str,
    full: bool,
    text: &'a [u8],
}

impl<'a> Entry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |b| *b == b' ');
        let time = std::str::from_utf8(parts.next()?).ok()?;
        let stream = std::str::from_utf8(parts.next()?).ok().filter(|s| matches!(*s, "stdout" | "stderr"))?;
        let full = parts.next()?.first() != Some(&b'P');
        Some(Self { time, stream, full, text: parts.next().unwrap_or_default() })
    }
}

/// Where the last `lines` lines begin.
fn tail_offset(file: &mut std::fs::File, lines: u64) -> std::io::Result<u64> {
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    // A line begins after an entry that ended one: count `F` entries from the end, then keep the partial entries before the oldest.
    let (mut at, mut carry, mut ended) = (end, Vec::new(), 0u64);
    while at > 0 {
        let size = BLOCK_BYTES.min(usize::try_from(at).unwrap_or(BLOCK_BYTES));
        at -= size as u64;
        let mut block = vec![0; size];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut block)?;
        block.extend_from_slice(&carry);
        // Whole entries of this block, last first; what precedes the first newline waits for the block before.
        let first = if at == 0 { 0 } else { block.iter().position(|b| *b == b'\n').map_or(block.len(), |p| p + 1) };
        let mut stop = block.len();
        while stop > first {
            let start = block[first..stop - 1].iter().rposition(|b| *b == b'\n').map_or(first, |p| first + p + 1);
            // A program that ended in the middle of a line has written a line, too.
            let last = at + stop as u64 == end;
            if Entry::parse(&block[start..stop]).is_some_and(|e| e.full || last) {
                ended += 1;
                if ended > lines {
                    return Ok(at + stop as u64);
                }
            }
            stop = start;
        }
        carry = block[..first].to_vec();
        if carry.len() > 4 * ENTRY_BYTES_MAX {
            carry.clear();
        }
    }
    Ok(0)
}

/// Reads a log from where the options say. `alive` tells whether the container may still write; `sink` takes bytes (at most 64 KiB
/// at once) and says whether to go on.
pub async fn follow<F>(path: &Path, options: Options, alive: impl Fn() -> bool, mut sink: impl FnMut(Vec<u8>) -> F) -> Result<()>
where
    F: Future<Output = bool>,
{
    let mut file = open(path).await?;
    let start = match options.tail_lines {
        Some(lines) => tail_offset(&mut file, lines).step(|| "reading the end of the log".into())?,
        None => 0,
    };
    file.seek(SeekFrom::Start(start)).step(|| "seeking in the log".into())?;
    let following = options.follow;
    let mut reader = Reader::new(options);
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        // Both asked before reading: what was written before the end, or before a new file took this one's name, is then surely read.
        let more_to_come = following && alive();
        let next = if following { successor(path, &file) } else { None };
        loop {
            let count = file.read(&mut block).step(|| "reading the log".into())?;
            if count == 0 {
                break;
            }
            let mut out = Vec::new();
            reader.feed(&block[..count], &mut out);
            for piece in out.chunks(64 << 10) {
                if !sink(piece.to_vec()).await {
                    return Ok(());
                }
            }
            if reader.is_done() {
                return Ok(());
            }
            tokio::task::yield_now().await;
        }
        if let Some(next) = next {
            file = next;
            continue;
        }
        if !more_to_come {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_PERIOD).await;
    }
}

/// Opens a log; in the moment of a rotation its name is not there.
async fn open(path: &Path) -> Result<std::fs::File> {
    for _ in 0..ROTATION_PATIENCE {
        match std::fs::File::open(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => tokio::time::sleep(Duration::from_millis(5)).await,
            other => return other.step(|| format!("opening {}", path.display())),
        }
    }
    std::fs::File::open(path).step(|| format!("opening {}", path.display()))
}

/// The file that has taken the name of the one being read.
fn successor(path: &Path, file: &std::fs::File) -> Option<std::fs::File> {
    use std::os::unix::fs::MetadataExt;
    let (ours, named) = (file.metadata().ok()?, std::fs::metadata(path).ok()?);
    (ours.ino() != named.ino()).then(|| std::fs::File::open(path).ok())?
}

/// The last bytes of a log as text, for terminationMessagePolicy FallbackToLogsOnError: at most 80 lines and 2 KiB.
pub fn last_words(path: &Path) -> String {
    let Ok(mut file) = std::fs::File::open(path) else { return String::new() };
    let Ok(offset) = tail_offset(&mut file, 80) else { return String::new() };
    let mut bytes = Vec::new();
    if file.seek(SeekFrom::Start(offset)).and_then(|_| file.take(1 << 20).read_to_end(&mut bytes)).is_err() {
        return String::new();
    }
    let mut out = Vec::new();
    Reader::new(Options::default()).feed(&bytes, &mut out);
    let from = out.len().saturating_sub(2048);
    String::from_utf8_lossy(&out[from..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::TestDir;

    const LOG: &str = "2026-01-01T00:00:01.000000001Z stdout F one\n\
        2026-01-01T00:00:02.000000000Z stdout P tw\n\
        2026-01-01T00:00:02.100000000Z stdout F o\n\
        2026-01-01T00:00:03.000000000Z stderr F three\n\
        garbage\n\
        2026-01-01T00:00:04.000000000Z stdout F \n\
        2026-01-01T00:00:05.000000000Z stdout F five\n";

    async fn read(text: &str, options: Options) -> String {
        let dir = TestDir::new("log");
        let path = dir.0.join("0.log");
        std::fs::write(&path, text).expect("written");
        let out = std::cell::RefCell::new(Vec::new());
        let sink = |bytes: Vec<u8>| {
            out.borrow_mut().extend(bytes);
            std::future::ready(true)
        };
        follow(&path, options, || false, sink).await.expect("read");
        String::from_utf8(out.into_inner()).expect("text")
    }

    #[tokio::test]
    async fn options_choose_what_is_shown() {
        let check = async |options: Options, expected: &str| assert_eq!(read(LOG, options.clone()).await, expected, "{options:?}");
        let all = Options::default;
        check(all(), "one\ntwo\nthree\n\nfive\n").await;
        check(Options { tail_lines: Some(0), ..all() }, "").await;
        check(Options { tail_lines: Some(1), ..all() }, "five\n").await;
        check(Options { tail_lines: Some(4), ..all() }, "two\nthree\n\nfive\n").await;
        check(Options { tail_lines: Some(99), ..all() }, "one\ntwo\nthree\n\nfive\n").await;
        let open = format!("{LOG}2026-01-01T00:00:06.000000000Z stdout P six");
        let last = read(&format!("{open}\n"), Options { tail_lines: Some(1), ..all() }).await;
        assert_eq!(last, "six", "what ends without the end of a line is shown so, and is a line");
        check(Options { stream: Some("stderr"), ..all() }, "three\n").await;
        check(Options { limit_bytes: Some(6), ..all() }, "one\ntw").await;
        let since = "2026-01-01T00:00:03Z".parse().ok();
        check(Options { since, ..all() }, "three\n\nfive\n").await;
        check(
            Options { timestamps: true, tail_lines: Some(4), ..all() },
            "2026-01-01T00:00:02.000000000Z two\n2026-01-01T00:00:03.000000000Z three\n2026-01-01T00:00:04.000000000Z \n\
             2026-01-01T00:00:05.000000000Z five\n",
        )
        .await;
    }

    #[tokio::test]
    async fn tails_are_found_over_many_blocks() {
        let lines: Vec<String> =
            (0..5000).map(|n| format!("2026-01-01T00:00:01.000000001Z stdout F line {n} {}\n", "x".repeat(n % 97))).collect();
        for tail in [1u64, 7, 500, 4999, 5000, 6000] {
            let shown = read(&lines.concat(), Options { tail_lines: Some(tail), ..Options::default() }).await;
            let first = 5000u64.saturating_sub(tail);
            assert_eq!(shown.lines().count() as u64, tail.min(5000));
            assert!(shown.starts_with(&format!("line {first} ")), "{tail}");
        }
    }

    #[tokio::test]
    async fn following_ends_when_the_container_does_and_misses_nothing() {
        let dir = TestDir::new("log-follow");
        let path = dir.0.join("0.log");
        std::fs::write(&path, "").expect("written");
        let left = std::cell::Cell::new(5);
        let alive = || {
            if left.get() > 0 {
                use std::io::Write;
                let mut file = std::fs::OpenOptions::new().append(true).open(&path).expect("open");
                writeln!(file, "2026-01-01T00:00:01Z stdout F {}", left.get()).expect("written");
            }
            left.replace(left.get() - 1) > 1
        };
        let out = std::cell::RefCell::new(String::new());
        let sink = |bytes: Vec<u8>| {
            out.borrow_mut().push_str(&String::from_utf8_lossy(&bytes));
            std::future::ready(true)
        };
        follow(&path, Options { follow: true, ..Options::default() }, alive, sink).await.expect("read");
        assert_eq!(out.into_inner(), "5\n4\n3\n2\n1\n");
    }

    #[test]
    fn an_endless_line_does_not_grow_the_reader() {
        let mut reader = Reader::new(Options::default());
        let mut out = Vec::new();
        reader.feed(b"2026-01-01T00:00:01Z stdout F ", &mut out);
        for _ in 0..100 {
            reader.feed(&[b'x'; 10_000], &mut out);
        }
        assert!(reader.pending.len() <= ENTRY_BYTES_MAX);
    }
}

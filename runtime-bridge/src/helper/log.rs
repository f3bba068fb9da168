//! Container logs in the CRI format: `<RFC 3339 time> <stdout|stderr> <P|F> <text>`, one line each.
//!
//! A line longer than [`LINE_BYTES_MAX`] is cut into parts marked P. Writing is best effort: a full disk loses
//! lines, it never stops a container. Invariant: what a line cutter holds back is at most one unfinished part.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

/// Length of a part.
pub(crate) const LINE_BYTES_MAX: usize = 16 * 1024;

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// A container's log file.
pub(crate) struct LogFile {
    path: Option<PathBuf>,
    file: Option<File>,
    clock: Clock,
}

/// The unfinished line of one stream.
#[derive(Default)]
pub(crate) struct LineCutter {
    held: Vec<u8>,
}

/// Formats times, remembering the second.
#[derive(Default)]
struct Clock {
    second: i64,
    text: String,
}

impl LogFile {
    /// Opens (creating directories) or appends.
    pub(crate) fn open(path: Option<PathBuf>) -> io::Result<Self> {
        let mut log = Self { path, file: None, clock: Clock::default() };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the path anew; the old file, renamed by now, is let go.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let open = || OpenOptions::new().append(true).create(true).mode(0o640).open(path);
        self.file = Some(match open() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent)?;
                }
                open()?
            }
            other => other?,
        });
        Ok(())
    }

    /// Logs what came at `at_ns`.
    pub(crate) fn write(&mut self, stream: Stream, cutter: &mut LineCutter, data: &[u8], at_ns: i64) {
        let Some(file) = &mut self.file else { return };
        let stamp = self.clock.stamp(at_ns);
        let lines = cutter.cut(data, &stamp, stream.name());
        if !lines.is_empty() && file.write_all(&lines).is_err() {
            cutter.held.clear();
        }
    }

    /// Logs what is held back as a part of a line: its stream has ended without ending the line, or the rest comes later, from another
    /// process.
    pub(crate) fn part(&mut self, stream: Stream, cutter: &mut LineCutter, at_ns: i64) {
        let Some(file) = &mut self.file else { return };
        if !cutter.held.is_empty() {
            let head = format!("{} {} P ", self.clock.stamp(at_ns), stream.name());
            let line = [head.as_bytes(), &cutter.held, b"\n"].concat();
            let _ = file.write_all(&line);
            cutter.held.clear();
        }
    }
}

impl LineCutter {
    fn cut(&mut self, data: &[u8], stamp: &str, stream: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(data.len() + 64);
        let mut line = |mark: u8, held: &[u8], rest: &[u8]| {
            out.extend_from_slice(stamp.as_bytes());
            out.push(b' ');
            out.extend_from_slice(stream.as_bytes());
            out.extend_from_slice(&[b' ', mark, b' ']);
            out.extend_from_slice(held);
            out.extend_from_slice(rest);
            out.push(b'\n');
        };
        let mut rest = data;
        loop {
            let room = LINE_BYTES_MAX - self.held.len();
            let window = &rest[..rest.len().min(room)];
            if let Some(end) = window.iter().position(|b| *b == b'\n') {
                line(b'F', &self.held, &rest[..end]);
                self.held.clear();
                rest = &rest[end + 1..];
            } else if rest.get(room) == Some(&b'\n') {
                line(b'F', &self.held, &rest[..room]);
                self.held.clear();
                rest = &rest[room + 1..];
            } else if rest.len() > room {
                line(b'P', &self.held, &rest[..room]);
                self.held.clear();
                rest = &rest[room..];
            } else {
                self.held.extend_from_slice(rest);
                return out;
            }
        }
    }
}

impl Clock {
    fn stamp(&mut self, at_ns: i64) -> String {
        let (second, nanos) = (at_ns.div_euclid(1_000_000_000), at_ns.rem_euclid(1_000_000_000));
        if self.text.is_empty() || second != self.second {
            let time = jiff::Timestamp::from_second(second).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
            self.text = time.strftime("%Y-%m-%dT%H:%M:%S").to_string();
            self.second = second;
        }
        format!("{}.{nanos:09}Z", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(cutter: &mut LineCutter, data: &[u8]) -> String {
        String::from_utf8(cutter.cut(data, "T", "stdout")).expect("ascii")
    }

    #[test]
    fn lines_are_marked_full_and_unfinished_ones_wait() {
        let mut cutter = LineCutter::default();
        assert_eq!(cut(&mut cutter, b"a\nb"), "T stdout F a\n");
        assert_eq!(cut(&mut cutter, b"c\n\n"), "T stdout F bc\nT stdout F \n");
    }

    #[test]
    fn a_long_line_is_cut_into_partial_ones() {
        let mut cutter = LineCutter::default();
        let long = vec![b'x'; LINE_BYTES_MAX * 2];
        let x = "x".repeat(LINE_BYTES_MAX);
        assert_eq!(cut(&mut cutter, &long), format!("T stdout P {x}\n"));
        assert_eq!(cut(&mut cutter, b"y\n"), format!("T stdout P {x}\nT stdout F y\n"));
        assert_eq!(cut(&mut cutter, &[&long[..LINE_BYTES_MAX], b"\n"].concat()), format!("T stdout F {x}\n"));
    }

    #[test]
    fn times_have_nine_digits_and_a_z() {
        assert_eq!(Clock::default().stamp(1_767_225_600_000_000_005), "2026-01-01T00:00:00.000000005Z");
    }
}

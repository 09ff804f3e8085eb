//! What a program writes, line by line into the log.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    task::JoinHandle,
};

/// Longest line that is logged whole, in bytes.
pub(super) const LINE_BYTES: usize = 8 * 1024;
/// Put at the end of a longer one.
pub(super) const CUT: &str = " [cut]";

/// The last line of a stream, for the error message.
pub(crate) type LastLine = Arc<Mutex<Option<String>>>;

/// Returns the last line read so far.
pub(crate) fn last_of(line: &LastLine) -> Option<String> {
    line.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Reads `pipe` to its end in a task of its own and hands each line to `log`, and an error that
/// ends it.
///
/// The task is independent of the script's end on purpose: a service that was started in the
/// background and kept its output open is neither waited for nor killed by a closed pipe.
pub(crate) fn capture(
    pipe: impl AsyncRead + Unpin + Send + 'static,
    mut log: impl FnMut(io::Result<&str>) + Send + 'static,
) -> (JoinHandle<()>, LastLine) {
    let last = LastLine::default();
    let seen = Arc::clone(&last);
    let task = tokio::spawn(async move {
        let mut pipe = pipe;
        let mut lines = Lines::default();
        let mut chunk = [0; 4096];
        let mut failed = None;
        let mut emit = |line: String| {
            log(Ok(&line));
            *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(line);
        };
        loop {
            match pipe.read(&mut chunk).await {
                Ok(0) => break,
                Ok(count) => lines.push(&chunk[..count], &mut emit),
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        lines.finish(&mut emit);
        if let Some(error) = failed {
            log(Err(error));
        }
    });
    (task, last)
}

/// Cuts a stream of bytes into lines of bounded length.
#[derive(Default)]
pub(super) struct Lines {
    pending: Vec<u8>,
    cut: bool,
}

impl Lines {
    /// Takes the next bytes and hands each line that ends in them to `emit`.
    pub(super) fn push(&mut self, bytes: &[u8], emit: &mut impl FnMut(String)) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let (text, ends) = match part.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (part, false),
            };
            let room = LINE_BYTES - self.pending.len();
            self.cut |= text.len() > room;
            self.pending.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                self.emit(emit);
            }
        }
    }

    /// Hands over what follows the last line feed, if anything.
    pub(super) fn finish(&mut self, emit: &mut impl FnMut(String)) {
        if !self.pending.is_empty() {
            self.emit(emit);
        }
    }

    fn emit(&mut self, emit: &mut impl FnMut(String)) {
        let mut line = readable(&self.pending);
        if self.cut {
            line.push_str(CUT);
        }
        self.pending.clear();
        self.cut = false;
        emit(line);
    }
}

/// Returns `bytes` as text in which nothing can break a log line or steer a terminal.
fn readable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut line = String::with_capacity(text.len());
    for letter in text.trim_end().chars() {
        if letter.is_control() && letter != '\t' {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(chunks: &[&[u8]]) -> Vec<String> {
        let mut seen = Vec::new();
        let mut lines = Lines::default();
        for chunk in chunks {
            lines.push(chunk, &mut |line| seen.push(line));
        }
        lines.finish(&mut |line| seen.push(line));
        seen
    }

    #[test]
    fn lines_end_at_line_feeds_and_at_the_end() {
        assert_eq!(lines(&[b"one\ntw", b"o\r\n\nthree"]), ["one", "two", "", "three"]);
        assert_eq!(lines(&[b""]), [""; 0]);
    }

    #[test]
    fn a_long_line_is_cut_with_a_mark_and_the_next_is_whole() {
        let long = vec![b'x'; LINE_BYTES + 1];
        let seen = lines(&[&long, b"yyy\nnext\n"]);
        assert_eq!(seen[0].len(), LINE_BYTES + CUT.len());
        assert!(seen[0].ends_with(CUT));
        assert_eq!(seen[1..], ["next"]);
        assert_eq!(lines(&[&long[1..], b"\n"])[0].len(), LINE_BYTES);
    }

    #[test]
    fn nothing_steers_a_terminal() {
        assert_eq!(lines(&[b"\x1b[31mred\x07\tok \xff\n"]), ["\\u{1b}[31mred\\u{7}\tok \u{fffd}"]);
    }

    proptest! {
        #[test]
        fn chunks_do_not_matter(bytes in prop::collection::vec(0u8..20, 0..200), at in 0usize..200) {
            let at = at.min(bytes.len());
            prop_assert_eq!(lines(&[&bytes]), lines(&[&bytes[..at], &bytes[at..]]));
        }
    }
}

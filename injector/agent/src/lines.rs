//! Lines out of bytes as they come, none longer than a bound.

/// A longer request is refused, whatever it says.
pub(crate) const LONGEST: usize = 1024 * 1024;

/// What came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A line, without its end.
    Whole(Vec<u8>),
    /// A line longer than [`LONGEST`]; it was thrown away.
    TooLong,
}

/// Collects bytes to lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    partial: Vec<u8>,
    skipping: bool,
}

impl Lines {
    /// Takes bytes; gives the lines they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::new();
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let (text, ends) = match piece.strip_suffix(b"\n") {
                Some(text) => (text, true),
                None => (piece, false),
            };
            if !self.skipping {
                if self.partial.len() + text.len() > LONGEST {
                    self.skipping = true;
                    self.partial = Vec::new();
                } else {
                    self.partial.extend_from_slice(text);
                }
            }
            if ends {
                let line = std::mem::take(&mut self.partial);
                if std::mem::take(&mut self.skipping) {
                    lines.push(Line::TooLong);
                } else {
                    lines.push(Line::Whole(line));
                }
            }
        }
        lines
    }

    /// Forgets a line that was begun: its other end is gone.
    pub(crate) fn clear(&mut self) {
        *self = Lines::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_out_whole_however_the_bytes_arrive() {
        let mut lines = Lines::default();
        assert!(lines.push(b"ab").is_empty());
        assert_eq!(
            lines.push(b"c\n\nd"),
            [Line::Whole(b"abc".to_vec()), Line::Whole(Vec::new())]
        );
        lines.clear();
        assert_eq!(lines.push(b"e\n"), [Line::Whole(b"e".to_vec())]);
    }

    #[test]
    fn an_endless_line_takes_no_more_memory_than_the_bound() {
        let mut lines = Lines::default();
        let chunk = vec![b'x'; 64 * 1024];
        for _ in 0..100 {
            assert!(lines.push(&chunk).is_empty());
            assert!(lines.partial.capacity() <= 2 * LONGEST);
        }
        assert_eq!(
            lines.push(b"\nok\n"),
            [Line::TooLong, Line::Whole(b"ok".to_vec())]
        );
    }
}

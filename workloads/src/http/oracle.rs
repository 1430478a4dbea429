//! Whether an answer was right, and how it was wrong.
//!
//! The page is a function of N alone; [`Expected::for_bytes`] knows it to the
//! byte, and only those bytes are [`Verdict::Correct`]. Any other answer gets
//! the first of these that holds:
//!
//! 1. an HTTP status other than 200: `error_reply`;
//! 2. not `text/html` in UTF-8, an encoding nobody asked for, a body that is
//!    not UTF-8, has HTML parse errors, lacks tags or leaves them open, holds the
//!    same id twice, or is longer than [`MAX_PAGE`]: `corrupted_output`;
//! 3. no `<code id="sha1">` with something in it, and the hash nowhere else in
//!    the text: `missing_value`;
//! 4. another hash, another N, or any other difference: `incorrect_content`.
//!
//! Of a page that is not the CGI's, the body is known ([`Oracle::Body`],
//! [`Oracle::Sha1`]), and any other is `incorrect_content`.
//!
//! What is wrong with HTTP itself (a garbled status line, bytes after the
//! answer's end) is found where the answer is read and is `corrupted_output`.
//! Headers other than `Content-Type`, `Content-Encoding` and those that frame
//! the body are not looked at.

use super::page::Page;
use crate::hex::hex;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap};
use sha1::{Digest, Sha1};
use xfi_model::Verdict;

/// A page longer than this (bytes) is not parsed: it is not the page asked for.
pub const MAX_PAGE: usize = 64 * 1024;

/// A verdict, and what was wrong in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What was wrong; none when it was right.
    pub detail: Option<String>,
}

impl Judgement {
    /// A right answer.
    pub fn correct() -> Self {
        Judgement {
            verdict: Verdict::Correct,
            detail: None,
        }
    }

    /// A wrong one.
    pub fn wrong(verdict: Verdict, detail: impl Into<String>) -> Self {
        Judgement {
            verdict,
            detail: Some(detail.into()),
        }
    }
}

/// The right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    n: u64,
    sha1: String,
    body: String,
}

impl Expected {
    /// The right answer for the SHA-1 of `n` zero bytes. It computes that
    /// hash: about a second for 1 GB.
    pub fn for_bytes(n: u64) -> Self {
        let sha1 = sha1_of_zeros(n);
        // The CGI of the web guest writes this page; a test holds the two
        // together.
        let body = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>SHA-1</title></head>\n\
             <body>\n<h1>SHA-1</h1>\n<p>SHA-1 of <span id=\"n\">{n}</span> zero bytes: \
             <code id=\"sha1\">{sha1}</code></p>\n</body>\n</html>\n"
        );
        Expected { n, sha1, body }
    }

    /// The hash, forty hexadecimal digits.
    pub fn sha1(&self) -> &str {
        &self.sha1
    }

    /// The whole page.
    pub fn body(&self) -> &str {
        &self.body
    }
}

/// The SHA-1 of `n` zero bytes, forty hexadecimal digits.
pub fn sha1_of_zeros(n: u64) -> String {
    static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
    let mut hash = Sha1::new();
    let mut left = n;
    while left > 0 {
        let part = left.min(ZEROS.len() as u64);
        hash.update(&ZEROS[..part as usize]);
        left -= part;
    }
    hex(&hash.finalize())
}

/// What is known of the right answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Oracle {
    /// It is the CGI's page.
    Page(Expected),
    /// Its body, of any kind, is this.
    Body(Vec<u8>),
    /// Its body, of any kind, has this SHA-1: forty lower-case hexadecimal
    /// digits.
    Sha1(String),
}

impl Oracle {
    /// An answer is ended when it is longer than this, bytes: no right one is.
    pub(super) fn longest_answer(&self) -> usize {
        match self {
            Oracle::Page(_) => 1 << 20,
            Oracle::Body(body) => 2 * body.len() + (1 << 20),
            Oracle::Sha1(_) => 1 << 28,
        }
    }
}

/// Judges a complete, well-formed HTTP answer.
pub fn judge(oracle: &Oracle, status: u16, headers: &HeaderMap, body: &[u8]) -> Judgement {
    if status != 200 {
        return Judgement::wrong(Verdict::ErrorReply, format!("status {status}"));
    }
    match oracle {
        Oracle::Page(expected) => match judge_headers(headers) {
            Some(wrong) => Judgement::wrong(Verdict::CorruptedOutput, wrong),
            None => judge_body(expected, body),
        },
        Oracle::Body(right) if body == right => Judgement::correct(),
        Oracle::Body(right) => {
            Judgement::wrong(Verdict::IncorrectContent, first_difference(right, body))
        }
        Oracle::Sha1(right) => {
            let sha1 = hex(&Sha1::digest(body));
            if sha1 == *right {
                return Judgement::correct();
            }
            let bytes = body.len();
            Judgement::wrong(
                Verdict::IncorrectContent,
                format!("the SHA-1 of {bytes} bytes is {sha1}, not {right}"),
            )
        }
    }
}

/// What is wrong with the headers that tell how to read the body.
fn judge_headers(headers: &HeaderMap) -> Option<String> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(kind), None) = (types.next(), types.next()) else {
        return Some("no Content-Type, or several".into());
    };
    let text = String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let html = parts.next() == Some("text/html");
    let charset = parts.next();
    let utf8 = matches!(
        charset,
        None | Some("charset=utf-8") | Some("charset=\"utf-8\"")
    );
    if !html || !utf8 || parts.next().is_some() {
        return Some(format!(
            "Content-Type is {text:?}, not \"text/html; charset=utf-8\""
        ));
    }
    let encoding = headers.get(CONTENT_ENCODING)?;
    (encoding != "identity").then(|| format!("Content-Encoding is {encoding:?}"))
}

/// Judges a complete body.
pub fn judge_body(expected: &Expected, body: &[u8]) -> Judgement {
    if body == expected.body.as_bytes() {
        return Judgement::correct();
    }
    let corrupted = |detail: String| Judgement::wrong(Verdict::CorruptedOutput, detail);
    let differs = first_difference(expected.body.as_bytes(), body);
    if body.len() > MAX_PAGE {
        return corrupted(format!("a page of {} bytes; {differs}", body.len()));
    }
    let html = match std::str::from_utf8(body) {
        Ok(html) => html,
        Err(e) => return corrupted(format!("not UTF-8 at byte {}", e.valid_up_to())),
    };
    let page = Page::parse(html);
    if let Some(error) = page.errors.first() {
        let more = page.errors.len() - 1;
        return corrupted(format!(
            "not valid HTML: {error} (and {more} more); {differs}"
        ));
    }
    for id in ["sha1", "n"] {
        if page.by_id(id).len() > 1 {
            return corrupted(format!("not valid HTML: id {id:?} twice; {differs}"));
        }
    }
    let value = |id, tag| {
        let node = page.by_id(id).first().copied()?;
        let text = page.text(node);
        (page.is(node, tag) && !text.trim().is_empty()).then_some(text)
    };
    let incorrect = |detail| Judgement::wrong(Verdict::IncorrectContent, detail);
    match value("sha1", "code") {
        None if !page.whole_text().contains(&expected.sha1) => {
            return Judgement::wrong(
                Verdict::MissingValue,
                format!("no <code id=\"sha1\"> with a hash; {differs}"),
            );
        }
        Some(hash) if hash != expected.sha1 => {
            return incorrect(format!("SHA-1 is {hash:?}, not {:?}", expected.sha1));
        }
        _ => {}
    }
    match value("n", "span") {
        Some(n) if n != expected.n.to_string() => {
            incorrect(format!("N is {n:?}, not \"{}\"", expected.n))
        }
        _ => incorrect(differs),
    }
}

/// Where two bodies differ first, in words.
fn first_difference(expected: &[u8], body: &[u8]) -> String {
    let at = expected
        .iter()
        .zip(body)
        .take_while(|(a, b)| a == b)
        .count();
    match (expected.get(at), body.get(at)) {
        (Some(want), Some(got)) => {
            format!("byte {at} is 0x{got:02x}, not 0x{want:02x}")
        }
        (Some(_), None) => format!("it ends at byte {at} of {}", expected.len()),
        (None, _) => format!("{} bytes follow the page's end", body.len() - at),
    }
}

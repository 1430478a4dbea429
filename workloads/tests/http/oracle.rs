//! The oracle misses no wrong answer and accuses no right one.

use hyper::header::{CONTENT_TYPE, HeaderMap};
use proptest::prelude::*;
use std::path::Path;
use std::process::Command;
use xfi_model::Verdict;
use xfi_workloads::http::oracle::{Expected, Oracle, judge, judge_body, sha1_of_zeros};

#[test]
fn known_hashes() {
    assert_eq!(sha1_of_zeros(0), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    assert_eq!(sha1_of_zeros(1), "5ba93c9db0cff93f52b521d7420e43f6eda2784f");
    assert_eq!(
        sha1_of_zeros(65536),
        "1adc95bebe9eea8c112d40cd04ab7a8d75c4f961"
    );
    assert_eq!(
        sha1_of_zeros(1 << 20),
        "3b71f43ff30f4b15b5cd85dd9e95ebc7e84eb5a3"
    );
}

#[test]
fn the_cgi_writes_the_page_that_the_oracle_expects() {
    let cgi = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ansible/guests/web/sha1");
    for n in [0, 1, 4096, 65536, 1 << 20] {
        let out = Command::new("sh")
            .arg(&cgi)
            .env("QUERY_STRING", format!("n={n}"))
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let expected = Expected::for_bytes(n);
        assert_eq!(body, expected.body());
        assert!(head.contains(&format!("Content-Length: {}", body.len())));
        assert!(head.contains("Content-Type: text/html; charset=utf-8"));
    }
}

#[test]
fn every_single_bit_flip_of_the_page_is_noticed() {
    let expected = Expected::for_bytes(4096);
    let right = expected.body().as_bytes();
    for bit in 0..right.len() * 8 {
        let mut body = right.to_vec();
        body[bit / 8] ^= 1 << (bit % 8);
        let judgement = judge_body(&expected, &body);
        assert_ne!(judgement.verdict, Verdict::Correct, "bit {bit}");
        assert!(judgement.detail.is_some());
        if bit % 8 == 7 {
            assert_eq!(judgement.verdict, Verdict::CorruptedOutput, "not UTF-8");
        }
    }
}

#[test]
fn a_flip_within_the_hash_is_incorrect_content() {
    let expected = Expected::for_bytes(4096);
    let at = expected.body().find(expected.sha1()).unwrap();
    for bit in at * 8..(at + 40) * 8 {
        let mut body = expected.body().as_bytes().to_vec();
        let byte = &mut body[bit / 8];
        *byte ^= 1 << (bit % 8);
        if byte.is_ascii_alphanumeric() {
            let judgement = judge_body(&expected, &body);
            assert_eq!(judgement.verdict, Verdict::IncorrectContent, "bit {bit}");
        }
    }
}

#[test]
fn every_truncation_is_noticed_and_none_is_called_valid() {
    let expected = Expected::for_bytes(4096);
    let end = expected.body().find("</html>").unwrap() + "</html>".len();
    for at in 0..end {
        let judgement = judge_body(&expected, &expected.body().as_bytes()[..at]);
        assert_eq!(judgement.verdict, Verdict::CorruptedOutput, "at {at}");
    }
}

#[test]
fn an_id_twice_is_corrupted() {
    let expected = Expected::for_bytes(1);
    let body = expected
        .body()
        .replace("</p>", "<code id=\"sha1\">x</code></p>");
    let judgement = judge_body(&expected, body.as_bytes());
    assert_eq!(judgement.verdict, Verdict::CorruptedOutput);
}

#[test]
fn a_hash_that_lost_its_element_is_not_missing() {
    let expected = Expected::for_bytes(1);
    let body = expected.body().replace("id=\"sha1\"", "id=\"sha0\"");
    let judgement = judge_body(&expected, body.as_bytes());
    assert_eq!(judgement.verdict, Verdict::IncorrectContent);
}

#[test]
fn another_valid_page_is_missing_value() {
    let expected = Expected::for_bytes(1);
    let page = "<!DOCTYPE html><html lang=en><head><title>x</title></head>\
                <body><p>Hello &amp; welcome<br>é</p></body></html>";
    let judgement = judge_body(&expected, page.as_bytes());
    assert_eq!(judgement.verdict, Verdict::MissingValue, "{judgement:?}");
}

#[test]
fn ten_thousand_right_answers_are_never_accused() {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, "text/html; charset=utf-8".parse().unwrap());
    for n in 0..10_000 {
        let expected = Expected::for_bytes(n);
        let judgement = judge(
            &Oracle::Page(expected.clone()),
            200,
            &headers,
            expected.body().as_bytes(),
        );
        assert_eq!(judgement.verdict, Verdict::Correct);
    }
}

proptest! {
    #[test]
    fn anything_else_is_never_correct(body in prop::collection::vec(any::<u8>(), 0..600)) {
        let expected = Expected::for_bytes(64);
        prop_assert_ne!(judge_body(&expected, &body).verdict, Verdict::Correct);
    }

    #[test]
    fn any_splice_of_html_is_judged_without_panic(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "<!DOCTYPE html>", "<html>", "<table>", "<tr>", "x", "</p>", "<b>", "<i>", "</b>",
                "<template>", "</template>", "<svg>", "<script>", "</script>", "<select>",
                "<option>", "<frameset>", "<form>", "<math>", "<a>", "<p>", "</body>", "\0", "&#x0;",
                "<!--", "-->", "<plaintext>", "<meta charset=x>", "<title>", "<code id=sha1>", "<![CDATA[",
            ]),
            0..40,
        )
    ) {
        let expected = Expected::for_bytes(64);
        let body = parts.concat();
        prop_assert_ne!(judge_body(&expected, body.as_bytes()).verdict, Verdict::Correct);
    }

    #[test]
    fn right_pages_are_right(n in 0u64..100_000) {
        let expected = Expected::for_bytes(n);
        prop_assert_eq!(judge_body(&expected, expected.body().as_bytes()).verdict, Verdict::Correct);
    }
}

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::policy::fuzzing::{Server, climbs, texts_of};

fn many(raw: &str) -> BTreeSet<String> {
    match read(raw) {
        Ok(Readings::Many(readings)) => readings.into_iter().collect(),
        other => panic!("{raw}: {other:?}"),
    }
}

fn set<const N: usize>(readings: [&str; N]) -> BTreeSet<String> {
    readings.into_iter().map(str::to_owned).collect()
}

#[test]
fn plain_paths_are_taken_as_they_are() {
    for path in ["/", "/a", "/a/", "/a/b.c/...", "/.well-known/x", "/..a", "/a..", "/~u/-_.!$&'()*+,=:@", "/A/b"] {
        assert_eq!(read(path), Ok(Readings::Plain(path)));
    }
}

// PATH-5: dot segments, raw, encoded and mixed, in any reading.
#[test]
fn dot_segments_are_refused_in_every_spelling() {
    for path in [
        "/.",
        "/..",
        "/a/./b",
        "/a/../b",
        "/a/..",
        "/%2e",
        "/%2E%2e/b",
        "/.%2e/b",
        "/%2e./b",
        "/a/%2e/b",
        "/%252e%252e/b",
        "/%25%32%65./b",
        "/a/..;x/b",
        "/a/..;/b",
        "/a/.;x",
        "/a/..%3bx/b",
        "/a/..%253bx/b",
        "/a\\..\\b",
        "/a%5c..%5cb",
        "/a%255c..%255cb",
        "/a%2f..%2fb",
        "/a%2f%2e%2e%2fb",
        "/a%252f..",
        "/public;x%2f..%2fadmin",
        "//..//x",
        "/a/..\\b",
        "/%2e%2e%5cadmin",
        "/a/..%23b",
        "/a/%2e.%253fb",
    ] {
        assert_eq!(read(path), Err(PathError::DotSegment), "{path}");
    }
}

#[test]
fn what_can_only_be_an_attack_is_refused() {
    for (path, error) in [
        ("", PathError::NotAbsolute),
        ("*", PathError::NotAbsolute),
        ("a/b", PathError::NotAbsolute),
        ("http://x/", PathError::NotAbsolute),
        ("%2fa", PathError::NotAbsolute),
        ("/a#b", PathError::Illegal),
        ("/a?b", PathError::Illegal),
        ("/a b", PathError::Illegal),
        ("/%", PathError::MalformedPercent),
        ("/%2", PathError::MalformedPercent),
        ("/%zz", PathError::MalformedPercent),
        ("/%u002f", PathError::MalformedPercent),
        ("/%%32%66", PathError::MalformedPercent),
        ("/a\u{1}", PathError::Control),
        ("/a\t", PathError::Control),
        ("/%00", PathError::Control),
        ("/%0d%0a", PathError::Control),
        ("/%7f", PathError::Control),
        ("/%2500", PathError::Control),
        ("/%c2%85", PathError::Control),
        ("/%c0%ae%c0%ae/", PathError::Encoding),
        ("/%c0%af", PathError::Encoding),
        ("/%c1%9c", PathError::Encoding),
        ("/%c0%2f", PathError::Encoding),
        ("/%e0%80%af", PathError::Encoding),
        ("/%f0%80%80%af", PathError::Encoding),
        ("/%25c0%25af", PathError::Encoding),
        ("/%ed%a0%80", PathError::Encoding),
    ] {
        assert_eq!(read(path), Err(error), "{path}");
    }
    assert_eq!(read(&format!("/{}", "a".repeat(MAX_BYTES))), Err(PathError::TooLong));
}

// PATH-1: an encoded `#` or `?` is data, but for who parses once more what was decoded.
#[test]
fn encoded_delimiters_are_data_and_may_end_the_path() {
    assert_eq!(many("/a%23b%3fc"), set(["/a#b?c", "/a"]));
    assert_eq!(many("/a%253fb%23c"), set(["/a%3fb#c", "/a%3fb", "/a?b#c", "/a?b", "/a"]));
    assert_eq!(many("/a;x%3f/b"), set(["/a;x?/b", "/a/b", "/a;x", "/a"]));
    assert_eq!(many("/a/.%23b"), set(["/a/.#b", "/a/"]));
    // What was cut can't end it: the second `#` does, for who cuts the parameter first and passes the rest on.
    assert_eq!(many("/x;%23%2fadmin%23"), set(["/x;#%2Fadmin#", "/x;#/admin#", "/x;", "/x/admin#", "/x/admin", "/x"]));
    assert_eq!(read("/x;%3f%2fadmin%3f%2541"), Err(PathError::Ambiguous), "and there are too many ways with a second decoding");
    assert_eq!(many("/100%25"), set(["/100%"]));
}

#[test]
fn harmless_oddities_have_one_reading() {
    assert_eq!(many("/a%20b"), set(["/a b"]));
    assert_eq!(many("/%61dmin"), set(["/admin"]));
    assert_eq!(many("/caf%C3%A9"), set(["/café"]));
    assert_eq!(many("/café"), set(["/café"]));
    assert_eq!(many("/{a}|b"), set(["/{a}|b"]));
    assert_eq!(many("/a%2520b"), set(["/a%20b", "/a b"]));
}

#[test]
fn bytes_that_are_not_utf8_are_read_as_opaque_and_as_latin1() {
    assert_eq!(many("/caf%E9/x"), set(["/caf%E9/x", "/café/x"]));
    assert_eq!(many("/%FC%E9"), set(["/%FC%E9", "/üé"]));
}

// PATH-4: every reading, not one.
#[test]
fn separators_and_double_encoding_are_read_both_ways() {
    assert_eq!(many("/a%2Fb"), set(["/a%2Fb", "/a/b"]));
    assert_eq!(many("/a%252Fb"), set(["/a%2Fb", "/a/b"]));
    assert_eq!(many("/a%5Cb"), set(["/a\\b", "/a/b"]));
    assert_eq!(many("/a\\b"), set(["/a\\b", "/a/b"]));
    assert_eq!(many("/a//b"), set(["/a//b", "/a/b"]));
    assert_eq!(many("/a/%2fb"), set(["/a/%2Fb", "/a//b", "/a/b"]));
    assert_eq!(many("/%2561dmin"), set(["/%61dmin", "/admin"]));
    assert_eq!(read("/a%2Fb").unwrap().shown(), "/a%2Fb");
}

// PATH-4: two slashes at the beginning stand before a host, for who parses the path as a URL.
#[test]
fn a_host_in_front_is_read_both_ways() {
    assert_eq!(many("//a"), set(["//a", "/a", "/"]));
    assert_eq!(many("//x/admin"), set(["//x/admin", "/x/admin", "/admin"]));
    assert_eq!(many("///u@x:80//admin"), set(["///u@x:80//admin", "/u@x:80/admin", "//admin", "/admin"]));
    assert_eq!(many("/\\x/admin"), set(["/\\x/admin", "//x/admin", "/x/admin", "/admin"]));
    assert_eq!(many("/%2Fx/admin"), set(["/%2Fx/admin", "//x/admin", "/x/admin", "/admin"]));
    assert_eq!(many("/a//x/admin"), set(["/a//x/admin", "/a/x/admin"]));
}

// PATH-6: `;` cut or not.
#[test]
fn parameters_are_read_both_ways() {
    assert_eq!(many("/a;v=1/b"), set(["/a;v=1/b", "/a/b"]));
    assert_eq!(many("/a;jsessionid=1"), set(["/a;jsessionid=1", "/a"]));
    assert_eq!(many("/a%3Bx"), set(["/a;x", "/a"]));
    assert_eq!(many("/a/;x/b"), set(["/a/;x/b", "/a//b", "/a/b"]));
    assert_eq!(many("/a;x%2Fb"), set(["/a;x%2Fb", "/a;x/b", "/a", "/a/b"]));
}

#[test]
fn disagreement_is_ambiguous() {
    let public = |path: &str| path.starts_with("/public/");
    assert_eq!(read("/public/x").unwrap().agree(public), Ok(true));
    assert_eq!(read("/public/x%2Fy").unwrap().agree(public), Ok(true));
    assert_eq!(read("/public%2Fx").unwrap().agree(public), Err(PathError::Ambiguous));
    assert_eq!(read("//public/x").unwrap().agree(public), Err(PathError::Ambiguous));
    assert_eq!(read("/private%2Fx").unwrap().agree(public), Ok(false));
    assert_eq!(Readings::Many(Vec::new()).agree(public), Err(PathError::Ambiguous));
}

#[test]
fn the_work_is_bounded() {
    assert_eq!(read("/a%252fb%2fc%255c%5c\\;x%3b%253b//d"), Err(PathError::Ambiguous));
}

/// Whether the readings are exactly those of the servers, and a path that climbs for one of them is refused.
fn is_read_as_servers_do(raw: &str) -> Result<(), TestCaseError> {
    let all: BTreeSet<Vec<Vec<u8>>> = Server::all().iter().map(|server| server.segments(raw)).collect();
    let dots = all.iter().flatten().any(|segment| climbs(segment));
    match read(raw) {
        Ok(readings) => {
            prop_assert!(!dots, "{}", raw);
            let expected: BTreeSet<String> = all.iter().flat_map(|segments| texts_of(segments)).collect();
            let found: BTreeSet<String> = match readings {
                Readings::Plain(path) => [path.to_owned()].into(),
                Readings::Many(all) => all.into_iter().collect(),
            };
            prop_assert_eq!(found, expected, "{}", raw);
        }
        Err(PathError::DotSegment) => prop_assert!(dots, "{}", raw),
        Err(PathError::Ambiguous) => prop_assert!(!dots, "{}", raw),
        Err(other) => prop_assert!(false, "{}: {}", raw, other),
    }
    Ok(())
}

// PATH-3, PATH-4: what decides when a parameter is cut and when a path ends, in every order.
#[test]
fn every_short_mixture_is_read_as_servers_do() {
    let pieces = ["a", ";", "%23", "%2f", "/", "%3b"];
    for length in 0..=4 {
        for nth in 0..pieces.len().pow(length) {
            let chosen = (0..length).map(|at| pieces[nth / pieces.len().pow(at) % pieces.len()]);
            is_read_as_servers_do(&format!("/{}", chosen.collect::<String>())).unwrap();
        }
    }
}

fn hostile_path() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "a",
        "b",
        "..",
        ".",
        "/",
        "/",
        "//",
        "%2f",
        "%2F",
        "%252f",
        "\\",
        "%5c",
        "%255C",
        ";",
        "%3b",
        "%253b",
        "%2e",
        "%252e",
        "%25",
        "%20",
        "%61",
        "%2561",
        "%C3%A9",
        "=1",
        "%32%66",
        "%25%32%66",
        "%23",
        "%3f",
        "%253F",
    ]);
    prop::collection::vec(piece, 0..7).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    // PATH-3, PATH-4: the readings are exactly those of the servers.
    #[test]
    fn readings_are_those_of_the_reference_servers(raw in hostile_path()) {
        is_read_as_servers_do(&raw)?;
    }

    #[test]
    fn plain_means_one_reading(path in "(/[a-zA-Z0-9._~!$&'()*+,=:@-]{1,4}){1,4}/?") {
        match read(&path) {
            Ok(Readings::Plain(same)) => {
                prop_assert_eq!(same, &path);
                for server in Server::all() {
                    prop_assert_eq!(server.texts(&path), [path.clone()]);
                }
            }
            Err(error) => prop_assert_eq!(error, PathError::DotSegment),
            Ok(Readings::Many(readings)) => prop_assert!(false, "{readings:?}"),
        }
    }

    #[test]
    fn nothing_panics_and_nothing_slips_through(raw in "\\PC{0,20}|/[%0-9a-fA-F./;\\\\é]{0,30}") {
        if let Ok(readings) = read(&raw) {
            let clean = readings.agree(|path| {
                assert!(path.starts_with('/') && !path.split('/').any(|segment| segment == "." || segment == ".."), "{raw}: {path}");
                assert!(!path.bytes().any(|byte| byte.is_ascii_control()), "{raw}: {path}");
            });
            prop_assert_eq!(clean, Ok(()));
        }
    }
}

use proptest::prelude::*;

use super::*;

#[test]
fn a_question_is_known_by_its_spelling_alone() {
    let at = |query| Some(Question::InHeaders { query });
    assert_eq!(question("/_auth/forward-auth", "/_auth"), at(""));
    assert_eq!(question("/_auth/forward-auth?mode=status", "/_auth"), at("mode=status"));
    assert_eq!(question("/_auth/forward-auth/", "/_auth"), Some(Question::Below { target: "/" }));
    assert_eq!(question("/_auth/forward-auth//a?mode=status", "/_auth"), Some(Question::Below { target: "//a?mode=status" }));
    assert_eq!(question("/a/b/forward-auth/x", "/a/b"), Some(Question::Below { target: "/x" }));
    for other in
        ["/_auth/forward-authx", "/_auth/forward-auth%2fx", "/_auth//forward-auth", "/forward-auth", "/_auth", "/_auth/Forward-auth"]
    {
        assert_eq!(question(other, "/_auth"), None, "{other}");
    }
}

#[test]
fn below_the_route_the_query_is_not_ours() {
    assert_eq!(Question::Below { target: "/?mode=x" }.by_status(), Ok(false));
    assert_eq!(Question::InHeaders { query: "a=b&mode=status" }.by_status(), Ok(true));
    assert_eq!(Question::InHeaders { query: "mode=x" }.by_status(), Err(Doubt::Mode));
}

proptest! {
    // FWD-2: what a URL is split into is the URL.
    #[test]
    fn a_url_is_cut_and_not_changed(url in "(http|https|ws|ftp)?:?/{0,3}[a-z@:.\\[\\]]{0,8}[/?#]?[ -~]{0,12}") {
        if let Some((_, host, target)) = split_url(&url) {
            let written = format!("://{host}{target}");
            prop_assert!(url.ends_with(&written));
            prop_assert!(!host.contains(['/', '?', '#']));
        }
    }
}

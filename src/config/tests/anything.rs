//! Whatever is written, nothing panics and every problem has its place.

use super::*;

/// A value of any kind, or one that looks nearly right, as TOML.
fn value() -> impl Strategy<Value = String> {
    let texts = prop::sample::select(vec![
        "",
        "/",
        "/a",
        "/**",
        "*",
        "7d",
        "0s",
        "1MiB",
        "30/m",
        "0.0.0.0:1",
        "[::]:1",
        "unix:/a",
        "http://a",
        "https://[::1]:0",
        "10.0.0.0/8",
        "::/0",
        "open",
        "domains",
        "public",
        "deny",
        "None",
        "a@b.de",
        "attr.x",
        "X-A",
        "é",
        "\u{202e}",
        "*.a.de",
        "nullpass",
    ]);
    let text = prop_oneof![texts.prop_map(str::to_owned), "[ -~é\\n]{0,12}"].prop_map(|text| effective::quoted(&text));
    let scalar = prop_oneof![
        4 => text.clone(),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<bool>().prop_map(|value| value.to_string()),
        1 => Just("1.5".to_owned()),
    ];
    prop_oneof![
        4 => scalar.clone(),
        2 => prop::collection::vec(scalar.clone(), 0..3).prop_map(|values| format!("[{}]", values.join(", "))),
        1 => scalar.prop_map(|value| format!("{{ \"X-A\" = {value}, name = \"x\" }}")),
    ]
}

/// Assignments to keys of `keys`, some of them misspelt.
fn table(keys: &'static [Key], depth: usize) -> BoxedStrategy<Vec<(String, String)>> {
    let one = prop::sample::select(keys.iter().collect::<Vec<_>>()).prop_flat_map(move |key| {
        let name = key.name.to_owned();
        match key.children() {
            Some(children) if depth > 0 => {
                let tables = matches!(key.kind, Kind::Tables(_));
                table(children, depth - 1)
                    .prop_map(move |pairs| {
                        let inner = pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ");
                        (name.clone(), if tables { format!("[{{ {inner} }}]") } else { format!("{{ {inner} }}") })
                    })
                    .boxed()
            }
            _ => value().prop_map(move |value| (name.clone(), value)).boxed(),
        }
    });
    prop::collection::vec(one, 0..6)
        .prop_map(|mut pairs| {
            pairs.sort();
            pairs.dedup_by(|a, b| a.0 == b.0);
            pairs
        })
        .boxed()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn nothing_panics_and_every_problem_has_a_place(pairs in table(SCHEMA, 3)) {
        let text = pairs.iter().map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join("\n");
        prop_assert!(toml_edit::Document::parse(text.as_str()).is_ok(), "{}", text);
        if let Err(problems) = check_text(&text, &[]) {
            for problem in problems.0 {
                let missing = matches!(problem.key.as_str(), "upstreams" | "admin.listen");
                prop_assert!(missing || matches!(problem.place, Place::File { .. }), "{}\n{}", text, problem);
            }
        } else {
            let raw = check_text(&text, &[]).unwrap().raw;
            prop_assert!(toml_edit::Document::parse(effective(&raw).as_str()).is_ok());
        }
    }

    #[test]
    fn no_text_and_no_variable_panics(text in "[\\[\\]a-z_=\"# \n{}.,0-9]{0,80}", name in "[A-Z_]{0,20}", value in ".{0,20}") {
        // No such text has an upstream, so that there is always something to say.
        let problems = check_text(&text, &[(&format!("NULLPASS__{name}"), &value)]).unwrap_err();
        prop_assert!(problems.0.iter().all(|problem| !problem.message.is_empty()) && !problems.0.is_empty());
    }
}

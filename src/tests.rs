//! Everything that the fuzzer keeps, replayed: what it tried must hold for ever. Each target of `fuzz/` has its function
//! beside the code it is about, its own corpus, and a line here.

use std::collections::BTreeSet;
use std::path::Path;

macro_rules! targets {
    ($($name:ident: $target:path),* $(,)?) => {
        const TARGETS: &[(&str, &str)] = &[$((stringify!($name), stringify!($target))),*];

        $(
            #[test]
            fn $name() {
                replay(stringify!($name), $target);
            }
        )*
    };
}

targets! {
    answer: crate::proxy::fuzz_answer,
    api_token: crate::crypto::fuzz_api_token,
    configuration: crate::config::fuzz_configuration,
    cookie: crate::wire::fuzz_cookie,
    forwarded: crate::wire::fuzz_forwarded,
    host: crate::policy::fuzz_host,
    input: crate::web::fuzz_input,
    kept_form: crate::web::fuzz_kept_form,
    path: crate::policy::fuzz_path,
    proxy_line: crate::server::fuzz_proxy_line,
    request_head: crate::proxy::fuzz_request_head,
    return_target: crate::web::fuzz_return_target,
    sealed: crate::crypto::fuzz_sealed,
    stored_record: crate::store::fuzz_stored_record,
    token: crate::crypto::fuzz_token,
}

/// The names of what is in a folder of `fuzz/`, without their endings.
fn names(folder: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(folder)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap()).filter(|name| !name.starts_with('.'));
    names.map(|name| name.trim_end_matches(".rs").to_owned()).collect()
}

fn replay(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut count = 0;
    for file in std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = file.unwrap().path();
        // Shown if it fails.
        println!("{}", path.display());
        target(&std::fs::read(&path).unwrap());
        count += 1;
    }
    assert!(count >= 10, "{name} has a corpus of {count}");
}

/// The fuzz crate is not built here, which would take as long as all the rest: this holds what could go wrong with it.
#[test]
fn what_is_fuzzed_is_replayed() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names("fuzz_targets"), targets);
    assert_eq!(names("corpus"), targets);
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for (name, function) in TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"\n")), "{name}");
        let target = std::fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        let called = function.replace("crate::", "nullpass::").replace(' ', "");
        assert!(target.contains(&format!("fuzz_target!(|data: &[u8]| {called}(data));")), "{target}");
    }
}

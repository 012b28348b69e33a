//! Counts what a request allocates on the way of `hot_path`, and for the identity headers' values, which must be
//! nothing: `cargo bench --bench allocations`. Ends with 1 when that is missed.

#![expect(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a benchmark prints, and stops when it can't go on")]

#[path = "common/fixture.rs"]
mod fixture;

use std::process::ExitCode;

use allocation_counter::measure;
use fixture::{Fixture, policy};
use http::{HeaderMap, Method};
use nullpass::auth::recognise::Recognised;
use nullpass::config::{Encoding, IdentityHeaders, Preset};
use nullpass::model::Group;
use nullpass::policy::host::Host;
use nullpass::policy::path;
use nullpass::policy::rules::{Decision, RequestView};
use nullpass::wire::header::{Prepared, prepare};

const ROUNDS: u64 = 1000;

fn main() -> ExitCode {
    let (fixture, policy) = (Fixture::new(), policy());
    let (host, _) = Host::parse("app.example.com").unwrap();
    let recognise = || fixture.auth.recognise_known(&fixture.token, fixture.client, fixture.now).unwrap();
    // The first look makes the identity; later ones find it.
    let Recognised::Good(identity, _) = recognise() else { panic!("not signed in") };
    let config = IdentityHeaders::default();
    let prepared = || {
        let make = || prepare(&identity, Preset::Forwarded, Encoding::Utf8, &config, &Group::default_admin());
        let prepared: &Prepared = identity.slot.get_or_make(make).unwrap();
        prepared
    };
    let fields = prepared().fields.len();
    let mut headers = HeaderMap::with_capacity(64);

    let looked_up = measure(|| (0..ROUNDS).for_each(|_| drop(recognise())));
    let decided = measure(|| {
        for _ in 0..ROUNDS {
            let readings = path::read("/api/v1/projects/42/items").unwrap();
            let requirement = readings
                .agree(|path| {
                    let client = fixture.client;
                    policy.requirement(&RequestView { host: &host, path, method: &Method::GET, client, client_undeclared: false })
                })
                .unwrap();
            assert_eq!(requirement.decide(Some(&identity), false, fixture.now), Decision::Allow);
        }
    });
    let mut announce = || {
        headers.clear();
        for (name, value) in &prepared().fields {
            headers.insert(name, value.clone());
        }
    };
    // The first copy of a value makes its reference count, once in the life of an identity.
    let first = measure(&mut announce);
    let announced = measure(|| (0..ROUNDS).for_each(|_| announce()));
    assert_eq!(headers.len(), fields);

    for (what, counted) in
        [("look-up of a known token", &looked_up), ("policy, 10 rules", &decided), ("identity headers' names and values", &announced)]
    {
        println!("{what:36} {:3} allocations in {ROUNDS} requests", counted.count_total);
    }
    println!("{fields} identity headers a request, {} allocations when they are first announced", first.count_total);
    let missed = [looked_up, decided, announced].iter().any(|counted| counted.count_total > 0);
    println!("target: none{}", if missed { " (MISSED)" } else { "" });
    if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

//! What commands do to the state, and what they tell of it.

use super::*;
use crate::auth::Client;
use crate::auth::login::{Credentials, LoginStep};
use crate::model::SessionId;

#[tokio::test(flavor = "multi_thread")]
async fn accounts_are_managed() {
    let house = House::new().await;
    let ada = house
        .user(Command::UserAdd {
            email: "Ada@Example.com".parse().unwrap(),
            password: Secret::from(PASSWORD),
            display_name: Some("Ada".to_owned()),
            groups: groups(&["dev"]),
            administrator: true,
        })
        .await;
    assert_eq!(ada.email.as_str(), "ada@example.com");
    assert_eq!(ada.groups, groups(&["dev", "nullpass-admin"]));
    assert_eq!(ada.created_at, "2023-11-14T22:13:20.000Z");
    let bob = house.add("bob@example.com").await;

    // By address and by id it is the same account.
    assert_eq!(house.user(Command::UserShow { who: who("ada@example.com") }).await, ada);
    assert_eq!(house.user(Command::UserShow { who: who(&ada.id.to_string()) }).await, ada);

    let list = |search: Option<&str>, group: Option<&str>, after| Command::UserList {
        search: search.map(str::to_owned),
        group: group.map(|group| group.parse().unwrap()),
        after,
    };
    for (command, expected) in [
        (list(None, None, None), vec![&ada, &bob]),
        (list(Some("BOB"), None, None), vec![&bob]),
        (list(None, Some("dev"), None), vec![&ada]),
        (list(None, None, Some(ada.id)), vec![&bob]),
    ] {
        match house.ask(command).await {
            Ok(Answer::Users(found)) => assert_eq!(found.iter().collect::<Vec<_>>(), expected),
            other => panic!("{other:?}"),
        }
    }

    house.hands.advance(Duration::from_secs(60));
    assert_eq!(house.user(Command::UserSetGroups { who: who("bob@example.com"), groups: groups(&["x"]) }).await.groups, groups(&["x"]));
    assert!(house.user(Command::UserDisable { who: who("bob@example.com") }).await.disabled_at.is_some());
    assert!(house.user(Command::UserEnable { who: who("bob@example.com") }).await.disabled_at.is_none());
    house.user(Command::UserUnlock { who: who("bob@example.com") }).await;
    house.user(Command::UserResetSecondFactor { who: who("bob@example.com") }).await;
    let changed =
        house.user(Command::UserSetPassword { who: who("bob@example.com"), password: Secret::from("another quite long phrase") }).await;
    assert_ne!(changed.password_changed_at, bob.password_changed_at);

    assert!(matches!(house.ask(Command::UserDelete { who: Who::Id(bob.id) }).await, Ok(Answer::Done)));
    let gone = house.ask(Command::UserShow { who: Who::Id(bob.id) }).await;
    assert!(matches!(&gone, Err(CommandError::NoUser(Who::Id(id))) if *id == bob.id), "{gone:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_breaks_a_rule_is_refused_and_changes_nothing() {
    let house = House::new().await;
    let ada = house.add("ada@example.com").await;
    let refused = |answer: &Result<Answer, CommandError>| matches!(answer, Err(CommandError::Refused(_)));
    assert!(refused(&house.ask(add("ada@example.com", PASSWORD)).await));
    assert!(refused(&house.ask(add("bob@example.com", "short")).await));
    assert!(refused(&house.ask(Command::UserSetPassword { who: who("ada@example.com"), password: Secret::from("password") }).await));
    let token = |path: &str| Command::TokenCreate {
        who: who("ada@example.com"),
        name: "t".to_owned(),
        life: None,
        paths: vec![path.to_owned()],
        methods: vec!["get".to_owned()],
        networks: vec![],
    };
    assert!(refused(&house.ask(token("/a")).await));
    assert_eq!(house.user(Command::UserShow { who: who("ada@example.com") }).await, ada);
    for command in [
        Command::UserShow { who: who("eve@example.com") },
        Command::UserSetPassword { who: who("eve@example.com"), password: Secret::from(PASSWORD) },
        Command::UserSetGroups { who: who("eve@example.com"), groups: groups(&["x"]) },
        Command::UserDisable { who: who("eve@example.com") },
        Command::UserEnable { who: who("eve@example.com") },
        Command::UserUnlock { who: who("eve@example.com") },
        Command::UserResetSecondFactor { who: who("eve@example.com") },
        Command::UserDelete { who: who("eve@example.com") },
        Command::SessionList { who: who("eve@example.com") },
        Command::SessionRevokeAll { who: who("eve@example.com") },
        Command::TokenList { who: who("eve@example.com") },
        // An id that is nobody's goes a longer way to the same answer.
        Command::UserDisable { who: Who::Id(crate::model::UserId::new()) },
        Command::SessionList { who: Who::Id(crate::model::UserId::new()) },
        Command::UserDelete { who: Who::Id(crate::model::UserId::new()) },
    ] {
        let shown = format!("{command:?}");
        let answer = house.ask(command).await;
        assert!(matches!(answer, Err(CommandError::NoUser(_))), "{shown}: {answer:?}");
    }
    let id = SessionId::new();
    assert_eq!(house.ask(Command::SessionRevoke { id }).await.unwrap_err(), CommandError::NoSession(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_made_shown_once_and_ended() {
    let house = House::new().await;
    house.add("ada@example.com").await;
    let command = Command::TokenCreate {
        who: who("ada@example.com"),
        name: "calendar".to_owned(),
        life: Some(Duration::from_secs(86_400)),
        paths: vec!["/dav/**".to_owned()],
        methods: vec!["PROPFIND".to_owned()],
        networks: vec!["10.0.0.0/8".to_owned()],
    };
    let Ok(Answer::NewToken { secret, token }) = house.ask(command).await else { panic!("no token") };
    assert!(secret.expose().starts_with("np_"));
    assert_eq!(token.expires_at.as_deref(), Some("2023-11-15T22:13:20.000Z"));
    assert_eq!((token.paths.len(), token.methods.len(), token.networks.len()), (1, 1, 1));
    let tokens = || async {
        match house.ask(Command::TokenList { who: who("ada@example.com") }).await {
            Ok(Answer::Tokens(tokens)) => tokens,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(tokens().await, std::slice::from_ref(&token));
    assert!(!serde_json::to_string(&tokens().await).unwrap().contains(secret.expose()));
    house.add("bob@example.com").await;
    let revoke = |name: Option<&str>| house.ask(Command::TokenRevoke { who: name.map(who), id: token.id });
    assert_eq!(revoke(Some("bob@example.com")).await.unwrap_err(), CommandError::NoToken(token.id));
    assert_eq!(tokens().await.len(), 1);
    assert!(matches!(revoke(Some("ada@example.com")).await, Ok(Answer::Done)));
    assert_eq!(tokens().await, []);
    assert_eq!(revoke(None).await.unwrap_err(), CommandError::NoToken(token.id));

    // Its id alone is enough.
    let command = Command::TokenCreate {
        who: who("bob@example.com"),
        name: "backup".to_owned(),
        life: None,
        paths: vec![],
        methods: vec![],
        networks: vec![],
    };
    let Ok(Answer::NewToken { token, .. }) = house.ask(command).await else { panic!("no token") };
    assert!(matches!(house.ask(Command::TokenRevoke { who: None, id: token.id }).await, Ok(Answer::Done)));
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_without_addresses_and_ended() {
    let house = House::new().await;
    let ada = house.add("ada@example.com").await;
    let client = Client {
        ip: "203.0.113.9".parse().unwrap(),
        attributable: true,
        user_agent: Some("Mozilla/5.0".to_owned()),
        request_id: None,
        device: None,
    };
    let mut begun = Vec::new();
    for _ in 0..3 {
        let typed = Credentials { email: "ada@example.com".to_owned(), password: Secret::from(PASSWORD), code: None };
        let step = house.auth.log_in(typed, false, None, &client, house.clock.now()).await.unwrap();
        let LoginStep::Complete(issued) = step else { panic!("no session") };
        begun.push(issued.session);
    }
    let list = || async {
        match house.ask(Command::SessionList { who: Who::Id(ada.id) }).await {
            Ok(Answer::Sessions(sessions)) => sessions,
            other => panic!("{other:?}"),
        }
    };
    let sessions = list().await;
    assert_eq!(sessions.len(), 3);
    assert_eq!(sessions[0].user_agent.as_deref(), Some("Mozilla/5.0"));
    assert_eq!(sessions[0].amr, ["pwd"]);
    assert!(!serde_json::to_string(&sessions).unwrap().contains("203.0.113.9"));
    assert!(matches!(house.ask(Command::SessionRevoke { id: begun[0] }).await, Ok(Answer::Ended(1))));
    assert_eq!(list().await.len(), 2);
    assert!(matches!(house.ask(Command::SessionRevokeAll { who: Who::Id(ada.id) }).await, Ok(Answer::Ended(2))));
    assert!(list().await.is_empty());
}

// NP-7: no hash, key or sealed value leaves the store through a listing.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_shown_without_its_secrets() {
    let house = House::new().await;
    let ada = house.add("ada@example.com").await;
    let shown = serde_json::to_value(&ada).unwrap();
    let mut keys: Vec<_> = shown.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "attributes",
            "createdAt",
            "disabledAt",
            "displayName",
            "email",
            "groups",
            "id",
            "passwordChangedAt",
            "recoveryCodes",
            "twoFactor",
            "updatedAt"
        ]
    );
    assert!(!shown.to_string().contains("argon2"));
}

#[test]
fn a_password_is_not_shown_with_its_command() {
    let command = add("ada@example.com", PASSWORD);
    assert!(!format!("{command:?}").contains(PASSWORD));
}

#[test]
fn commands_of_another_version_are_not_guessed_at() {
    for text in [
        r#"{"user_purge":{"who":"a@b.de"}}"#,
        r#"{"user_show":{"who":"a@b.de","more":1}}"#,
        r#"{"user_show":{"who":"nobody"}}"#,
        r#"{"user_show":{}}"#,
        "",
    ] {
        assert!(serde_json::from_str::<Command>(text).is_err(), "{text}");
    }
    assert!(serde_json::from_str::<Command>(r#"{"user_show":{"who":"a@b.de"}}"#).is_ok());
}

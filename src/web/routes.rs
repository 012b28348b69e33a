//! Every route of ours, on one screen. Paths are relative to the prefix; HEAD goes wherever GET goes.

use http::Method;

/// What a route does: the table says it.
#[rustfmt::skip]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Register,
    Login,
    LoginSecondFactor,
    Reauth,
    Refresh,
    Logout,
    Verify,
    Me,
    ChangeMe,
    DeleteMe,
    Password,
    SecondFactor,
    RecoveryCodes,
    Sessions,
    EndSessions,
    Tokens,
    CreateToken,
    DeleteToken,
    Audit,
    Health,
    Jwks,
    OpenApi,
    Home,
    Language,
    LoginPage,
    LoginForm,
    SecondFactorPage,
    SecondFactorForm,
    KeptPage,
    KeptForm,
    RegisterPage,
    RegisterForm,
    SetupPage,
    SetupForm,
    ReauthPage,
    ReauthForm,
    LogoutPage,
    LogoutForm,
    ProfilePage,
    ProfileForm,
    PasswordPage,
    PasswordForm,
    TwoFactorPage,
    TwoFactorForm,
    TwoFactorOffPage,
    TwoFactorOffForm,
    RecoveryCodesPage,
    RecoveryCodesForm,
    RecoveryCodesFile,
    SessionsPage,
    SessionsForm,
    TokensPage,
    NewTokenPage,
    NewTokenForm,
    EndTokenPage,
    EndTokenForm,
    ActivityPage,
    DeletionPage,
    DeletionForm,
}

/// Whom a route lets in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Anybody.
    Nothing,
    /// A session or an API token.
    Credential,
    /// A session; one that is fit for enrolment only will do.
    AnySession,
    /// A session that is fit for everything.
    Session,
}

/// What a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `application/json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

/// Whether people or programs come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    /// Programs: every answer is JSON.
    Api,
    /// People: pages, unless the request says that a program sent it.
    Page,
}

/// One route.
#[derive(Clone, Debug)]
pub(super) struct Route {
    /// The method.
    pub(super) method: Method,
    /// The path below the prefix.
    pub(super) path: &'static str,
    /// Whom it lets in.
    pub(super) needs: Needs,
    /// What it does.
    pub(super) endpoint: Endpoint,
}

const fn route(method: Method, path: &'static str, needs: Needs, endpoint: Endpoint) -> Route {
    Route { method, path, needs, endpoint }
}

/// The table.
#[rustfmt::skip]
pub(super) const ROUTES: &[Route] = &[
    // The JSON API; `openapi.json` describes exactly these.
    route(Method::POST,   "/api/auth/register",           Needs::Nothing,    Endpoint::Register),
    route(Method::POST,   "/api/auth/login",              Needs::Nothing,    Endpoint::Login),
    route(Method::POST,   "/api/auth/login/2fa",          Needs::Nothing,    Endpoint::LoginSecondFactor),
    route(Method::POST,   "/api/auth/reauth",             Needs::AnySession, Endpoint::Reauth),
    route(Method::POST,   "/api/auth/refresh",            Needs::AnySession, Endpoint::Refresh),
    route(Method::POST,   "/api/auth/logout",             Needs::AnySession, Endpoint::Logout),
    route(Method::POST,   "/api/auth/verify",             Needs::Nothing,    Endpoint::Verify),
    route(Method::GET,    "/api/auth/me",                 Needs::Credential, Endpoint::Me),
    route(Method::PATCH,  "/api/auth/me",                 Needs::Session,    Endpoint::ChangeMe),
    route(Method::DELETE, "/api/auth/me",                 Needs::Session,    Endpoint::DeleteMe),
    route(Method::POST,   "/api/auth/password",           Needs::Session,    Endpoint::Password),
    route(Method::POST,   "/api/auth/2fa",                Needs::AnySession, Endpoint::SecondFactor),
    route(Method::POST,   "/api/auth/2fa/recovery-codes", Needs::Session,    Endpoint::RecoveryCodes),
    route(Method::GET,    "/api/auth/sessions",           Needs::Session,    Endpoint::Sessions),
    route(Method::DELETE, "/api/auth/sessions",           Needs::Session,    Endpoint::EndSessions),
    route(Method::GET,    "/api/auth/tokens",             Needs::Session,    Endpoint::Tokens),
    route(Method::POST,   "/api/auth/tokens",             Needs::Session,    Endpoint::CreateToken),
    route(Method::DELETE, "/api/auth/tokens",             Needs::Session,    Endpoint::DeleteToken),
    route(Method::GET,    "/api/audit",                   Needs::Session,    Endpoint::Audit),
    route(Method::GET,    "/api/health",                  Needs::Nothing,    Endpoint::Health),
    route(Method::GET,    "/.well-known/jwks.json",       Needs::Nothing,    Endpoint::Jwks),
    route(Method::GET,    "/openapi.json",                Needs::Nothing,    Endpoint::OpenApi),
    // Pages. Those about a session send people to the sign-in page by themselves.
    route(Method::GET,    "",                             Needs::Nothing,    Endpoint::Home),
    route(Method::GET,    "/",                            Needs::Nothing,    Endpoint::Home),
    route(Method::GET,    "/language",                    Needs::Nothing,    Endpoint::Language),
    route(Method::GET,    "/login",                       Needs::Nothing,    Endpoint::LoginPage),
    route(Method::POST,   "/login",                       Needs::Nothing,    Endpoint::LoginForm),
    route(Method::GET,    "/login/2fa",                   Needs::Nothing,    Endpoint::SecondFactorPage),
    route(Method::POST,   "/login/2fa",                   Needs::Nothing,    Endpoint::SecondFactorForm),
    route(Method::GET,    "/kept",                        Needs::Nothing,    Endpoint::KeptPage),
    route(Method::POST,   "/kept",                        Needs::Nothing,    Endpoint::KeptForm),
    route(Method::GET,    "/register",                    Needs::Nothing,    Endpoint::RegisterPage),
    route(Method::POST,   "/register",                    Needs::Nothing,    Endpoint::RegisterForm),
    route(Method::GET,    "/setup",                       Needs::Nothing,    Endpoint::SetupPage),
    route(Method::POST,   "/setup",                       Needs::Nothing,    Endpoint::SetupForm),
    route(Method::GET,    "/reauth",                      Needs::AnySession, Endpoint::ReauthPage),
    route(Method::POST,   "/reauth",                      Needs::AnySession, Endpoint::ReauthForm),
    route(Method::GET,    "/logout",                      Needs::Nothing,    Endpoint::LogoutPage),
    route(Method::POST,   "/logout",                      Needs::Nothing,    Endpoint::LogoutForm),
    // One's own account. A session that is fit for enrolment only sees the page for that, whichever it asks for.
    route(Method::GET,    "/account",                     Needs::Session,    Endpoint::ProfilePage),
    route(Method::POST,   "/account",                     Needs::Session,    Endpoint::ProfileForm),
    route(Method::GET,    "/account/password",            Needs::Session,    Endpoint::PasswordPage),
    route(Method::POST,   "/account/password",            Needs::Session,    Endpoint::PasswordForm),
    route(Method::GET,    "/account/2fa",                 Needs::AnySession, Endpoint::TwoFactorPage),
    route(Method::POST,   "/account/2fa",                 Needs::AnySession, Endpoint::TwoFactorForm),
    route(Method::GET,    "/account/2fa/off",             Needs::Session,    Endpoint::TwoFactorOffPage),
    route(Method::POST,   "/account/2fa/off",             Needs::Session,    Endpoint::TwoFactorOffForm),
    route(Method::GET,    "/account/2fa/recovery-codes",  Needs::Session,    Endpoint::RecoveryCodesPage),
    route(Method::POST,   "/account/2fa/recovery-codes",  Needs::Session,    Endpoint::RecoveryCodesForm),
    route(Method::GET,    "/account/2fa/recovery-codes/file", Needs::Session, Endpoint::RecoveryCodesPage),
    route(Method::POST,   "/account/2fa/recovery-codes/file", Needs::Session, Endpoint::RecoveryCodesFile),
    route(Method::GET,    "/account/sessions",            Needs::Session,    Endpoint::SessionsPage),
    route(Method::POST,   "/account/sessions",            Needs::Session,    Endpoint::SessionsForm),
    route(Method::GET,    "/account/tokens",              Needs::Session,    Endpoint::TokensPage),
    route(Method::GET,    "/account/tokens/new",          Needs::Session,    Endpoint::NewTokenPage),
    route(Method::POST,   "/account/tokens/new",          Needs::Session,    Endpoint::NewTokenForm),
    route(Method::GET,    "/account/tokens/end",          Needs::Session,    Endpoint::EndTokenPage),
    route(Method::POST,   "/account/tokens/end",          Needs::Session,    Endpoint::EndTokenForm),
    route(Method::GET,    "/account/activity",            Needs::Session,    Endpoint::ActivityPage),
    route(Method::GET,    "/account/delete",              Needs::Session,    Endpoint::DeletionPage),
    route(Method::POST,   "/account/delete",              Needs::Session,    Endpoint::DeletionForm),
];

impl Route {
    /// What its body is.
    pub(super) fn kind(&self) -> Kind {
        match face(self.path) {
            Face::Api => Kind::Json,
            Face::Page => Kind::Form,
        }
    }
}

/// Who comes to a path below the prefix, whether there is such a route or not.
pub(super) fn face(path: &str) -> Face {
    let api = path == "/api" || path.starts_with("/api/") || path.starts_with("/.well-known/") || path == "/openapi.json";
    if api { Face::Api } else { Face::Page }
}

/// The methods that a path knows, for `Allow`; none: there is no such route.
pub(super) fn methods(path: &str) -> Vec<Method> {
    let mut methods: Vec<Method> = Vec::new();
    for route in ROUTES.iter().filter(|route| route.path == path) {
        methods.push(route.method.clone());
        if route.method == Method::GET {
            methods.push(Method::HEAD);
        }
    }
    if !methods.is_empty() {
        methods.push(Method::OPTIONS);
    }
    methods
}

/// The route for a method and a path below the prefix.
pub(super) fn find(method: &Method, path: &str) -> Option<&'static Route> {
    let method = if *method == Method::HEAD { &Method::GET } else { method };
    ROUTES.iter().find(|route| route.path == path && route.method == *method)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn head_goes_where_get_goes() {
        assert_eq!(find(&Method::HEAD, "/api/auth/me").map(|route| route.endpoint), Some(Endpoint::Me));
        assert_eq!(find(&Method::HEAD, "/api/auth/login").map(|route| route.endpoint), None);
        assert_eq!(methods("/api/auth/me"), [Method::GET, Method::HEAD, Method::PATCH, Method::DELETE, Method::OPTIONS]);
        assert!(methods("/api/auth/me/").is_empty() && methods("/API/auth/me").is_empty());
    }

    #[test]
    fn the_description_has_every_api_route_and_nothing_else() {
        let described: serde_json::Value = serde_json::from_str(include_str!("openapi.json")).unwrap();
        let mut in_file = BTreeSet::new();
        for (path, item) in described["paths"].as_object().unwrap() {
            for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
                in_file.insert(format!("{} {path}", method.to_uppercase()));
            }
        }
        let in_table: BTreeSet<_> =
            ROUTES.iter().filter(|route| face(route.path) == Face::Api).map(|route| format!("{} {}", route.method, route.path)).collect();
        assert_eq!(in_file, in_table);
    }
}

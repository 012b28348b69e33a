//! Who asks, as far as the form of an answer goes: a browser that shows a page, a program that reads JSON, or gRPC
//! (contract, section 5, "Who may not").

use http::{HeaderMap, Method};

use crate::wire::context::{self, Context, Navigation};

/// What is known of a request when it has to be answered by us.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its header fields.
    pub headers: &'a HeaderMap,
    /// Its path and query, as received.
    pub path_and_query: &'a str,
    /// Its context; `None`: it could not be made.
    pub context: Option<&'a Context>,
    /// Its id.
    pub request_id: &'a str,
    /// Who gets the answer first.
    pub asker: Asker,
}

/// Who gets an answer first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// Whoever made the request: links can be paths.
    Client,
    /// Another proxy, which passes the answer on: some take a path for one of ours and not of the application's, so links
    /// are absolute where that is safe.
    Proxy,
    /// Another proxy that looks at nothing but the status: it is never sent elsewhere.
    ProxyByStatus,
}

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A browser's GET or HEAD navigation of a whole tab: pages and redirects.
    Navigation,
    /// A navigation by another method, usually a form: a page, and no redirect, which would lose what was sent.
    Submission,
    /// A navigation of a frame: a page whose links open at the top, since ours refuse to be framed.
    Frame,
    /// A program: JSON.
    Json,
    /// gRPC: `grpc-status` in the header.
    Grpc,
}

impl Ask<'_> {
    /// The form that this request should be answered in.
    pub fn form(&self) -> Form {
        if context::is_grpc(self.headers) {
            return Form::Grpc;
        }
        match context::navigation(self.method, self.headers) {
            Navigation::Document => Form::Navigation,
            Navigation::OtherMethodNavigation => Form::Submission,
            Navigation::Frame => Form::Frame,
            Navigation::NotNavigation => Form::Json,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn form(method: &Method, fields: &[(&'static str, &'static str)]) -> Form {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.insert(*name, value.parse().unwrap());
        }
        Ask { method, headers: &headers, path_and_query: "/", context: None, request_id: "1", asker: Asker::Client }.form()
    }

    #[test]
    fn navigations_are_told_from_programs() {
        let (get, post) = (&Method::GET, &Method::POST);
        let html = ("accept", "text/html,*/*;q=0.8");
        let navigate = ("sec-fetch-mode", "navigate");
        assert_eq!(form(get, &[html, navigate, ("sec-fetch-dest", "document")]), Form::Navigation);
        assert_eq!(form(&Method::HEAD, &[html]), Form::Navigation);
        assert_eq!(form(get, &[html, navigate, ("sec-fetch-dest", "iframe")]), Form::Frame);
        assert_eq!(form(get, &[html, navigate]), Form::Json);
        assert_eq!(form(get, &[html, ("sec-fetch-mode", "cors"), ("sec-fetch-dest", "empty")]), Form::Json);
        assert_eq!(form(get, &[html, ("x-requested-with", "XMLHttpRequest")]), Form::Json);
        assert_eq!(form(get, &[]), Form::Json);
        assert_eq!(form(get, &[("accept", "*/*")]), Form::Json);
        assert_eq!(form(post, &[html, navigate, ("sec-fetch-dest", "document")]), Form::Submission);
        assert_eq!(form(post, &[("content-type", "application/grpc+proto"), html]), Form::Grpc);
    }
}

//! Any web server, by its URL.

use super::HttpWorkload;
use super::config::check_hash_bytes;
use super::exchange::{HttpClient, Question};
use super::oracle::{Expected, Oracle};
use crate::WorkloadError;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The URL of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    text: String,
    authority: String,
    host: String,
    port: u16,
    path: String,
}

/// How the right answer is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expect {
    /// It is the page of our CGI with the SHA-1 of so many zero bytes.
    HashOfZeros(u64),
    /// Its body has this SHA-1, in hexadecimal.
    Sha1(String),
    /// Its body is this.
    Body(Vec<u8>),
    /// It is what the server answers before the load, twice.
    First,
}

impl HttpUrl {
    /// Parses an `http` URL.
    ///
    /// # Errors
    /// [`WorkloadError::Invalid`].
    pub fn parse(text: &str) -> Result<HttpUrl, WorkloadError> {
        let invalid = || WorkloadError::Invalid {
            field: "url",
            value: format!("'{text}'"),
            valid: "http://HOST[:PORT]/PATH is valid",
        };
        let uri: hyper::Uri = text.parse().map_err(|_| invalid())?;
        let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
            return Err(invalid());
        };
        if authority.as_str().contains('@') || authority.host().is_empty() {
            return Err(invalid());
        }
        let host = authority.host();
        Ok(HttpUrl {
            text: text.to_owned(),
            authority: authority.as_str().to_owned(),
            // The brackets of an IPv6 address belong to the URL alone.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(80),
            path: uri.path_and_query().map_or("/", |p| p.as_str()).to_owned(),
        })
    }

    /// The N of a CGI's URL, `…/sha1?n=N`.
    pub fn hash_bytes(&self) -> Option<u64> {
        let (path, query) = self.path.split_once('?')?;
        let n = query.strip_prefix("n=")?;
        path.ends_with("/sha1").then(|| n.parse().ok()).flatten()
    }

    async fn resolve(&self) -> Result<SocketAddr, WorkloadError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let first = found.map(|mut all| all.next());
        match first {
            Ok(Some(addr)) => Ok(addr),
            Ok(None) => Err(self.no_server("the host has no address")),
            Err(e) => Err(self.no_server(e.to_string())),
        }
    }

    fn no_server(&self, what: impl Into<String>) -> WorkloadError {
        WorkloadError::NoServer {
            url: self.text.clone(),
            what: what.into(),
        }
    }
}

impl HttpWorkload {
    /// A page of any server. It is asked for before the load, with
    /// [`Expect::First`] twice, each within `patience`: a server that is down or
    /// does not give the right page is an error here, not load's to find.
    ///
    /// # Errors
    /// [`WorkloadError::NoServer`] or [`WorkloadError::Invalid`].
    pub async fn of_url(
        url: &HttpUrl,
        expect: Expect,
        keep_alive: bool,
        patience: Duration,
    ) -> Result<HttpWorkload, WorkloadError> {
        let addr = url.resolve().await?;
        let question =
            |oracle| Question::new(addr, &url.authority, &url.path, Arc::new(oracle)).map(Arc::new);
        let oracle = match expect {
            Expect::HashOfZeros(n) => {
                check_hash_bytes(n)?;
                Oracle::Page(Expected::for_bytes(n))
            }
            Expect::Body(body) => Oracle::Body(body),
            Expect::Sha1(sha1) => Oracle::Sha1(checked(&sha1)?),
            Expect::First => {
                // Nothing is known of it yet, but that it does not go on for
                // ever.
                let mut client =
                    HttpClient::new(question(Oracle::Sha1(String::new()))?, keep_alive);
                let first = fetch(url, &mut client, patience).await?;
                if fetch(url, &mut client, patience).await? != first {
                    return Err(url.no_server(
                        "two answers differ, so that none can be told to be right; give a page \
                         that stays the same",
                    ));
                }
                Oracle::Body(first)
            }
        };
        let question = question(oracle)?;
        let mut client = HttpClient::new(Arc::clone(&question), keep_alive);
        match timeout(patience, client.try_once()).await {
            Ok(None) => {}
            Ok(Some(what)) => return Err(url.no_server(what)),
            Err(_) => return Err(silent(url, patience)),
        }
        Ok(HttpWorkload::one(
            url.authority.clone(),
            question,
            keep_alive,
        ))
    }
}

async fn fetch(
    url: &HttpUrl,
    client: &mut HttpClient,
    patience: Duration,
) -> Result<Vec<u8>, WorkloadError> {
    match timeout(patience, client.fetch()).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(what)) => Err(url.no_server(what)),
        Err(_) => Err(silent(url, patience)),
    }
}

fn silent(url: &HttpUrl, patience: Duration) -> WorkloadError {
    url.no_server(format!("no answer in {patience:?}"))
}

fn checked(sha1: &str) -> Result<String, WorkloadError> {
    if sha1.len() == 40 && sha1.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(sha1.to_ascii_lowercase());
    }
    Err(WorkloadError::Invalid {
        field: "expected SHA-1",
        value: format!("'{sha1}'"),
        valid: "forty hexadecimal digits",
    })
}

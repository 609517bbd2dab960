//! One connection to a gateway.

use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::failure::{Failure, from_answer, from_http};
use super::wire;
use crate::http::{self, Access, HttpError};

/// How long after an answer a gateway is trusted with a request that must not be sent twice.
const TRUSTED_FOR: Duration = Duration::from_secs(2);

/// A whole fleet in one list.
const MAX_ANSWER_BYTES: usize = 256 << 20;

/// What is said instead of an answer is short.
const MAX_REFUSAL_BYTES: usize = 64 << 10;

/// Something to ask of a gateway.
#[derive(Debug, Clone)]
pub(super) struct Ask {
    /// Where.
    pub(super) path: &'static str,
    /// What, as JSON.
    pub(super) body: Bytes,
}

/// A connection that is kept. Closed when this is dropped.
#[derive(Debug)]
pub(super) struct Link {
    url: Uri,
    access: Access,
    sender: SendRequest<Full<Bytes>>,
    authorization: Option<HeaderValue>,
    answered: Option<Instant>,
    _running: AbortOnDropHandle<hyper::Result<()>>,
}

impl Link {
    /// Connects, with certificates and secrets as their files have them now.
    pub(super) async fn new(url: &Uri, access: &Access) -> Result<Self, Failure> {
        let fault = |error| from_http(error, access);
        let authorization = access.authorization().await.map_err(fault)?;
        let connection = http::connect(url, access).await.map_err(fault)?;
        let shaken = handshake(TokioIo::new(connection)).await;
        let (sender, connection) =
            shaken.map_err(|error| Failure::Undone(format!("no HTTP is spoken there: {error}")))?;
        Ok(Self {
            url: url.clone(),
            access: access.clone(),
            sender,
            authorization,
            answered: None,
            _running: AbortOnDropHandle::new(tokio::spawn(connection)),
        })
    }

    /// Whether a request that must not be sent twice may go over it: there was an answer just now.
    pub(super) fn is_trusted(&self) -> bool {
        self.answered.is_some_and(|at| at.elapsed() < TRUSTED_FOR)
    }

    /// Whether it can still be used, as far as is known.
    pub(super) fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Finds out whether a gateway answers.
    pub(super) async fn probe(&mut self) -> Result<wire::Hello, Failure> {
        let request = Request::get(wire::HELLO).body(Full::default());
        // Who we are is of no matter here.
        let answer = self.send(request, None).await?;
        let hello: wire::Hello = self.whole(answer).await?;
        if hello.name != wire::SERVICE {
            return Err(Failure::Undone(format!("{:?} answers there", hello.name)));
        }
        Ok(hello)
    }

    /// Asks, and reads the whole answer.
    pub(super) async fn ask<T: DeserializeOwned>(&mut self, ask: &Ask) -> Result<T, Failure> {
        let answer = self.post(ask).await?;
        self.whole(answer).await
    }

    /// Asks for an answer that goes on and on.
    pub(super) async fn open(&mut self, ask: &Ask) -> Result<Incoming, Failure> {
        let answer = self.post(ask).await?;
        if answer.status() == StatusCode::OK {
            return Ok(answer.into_body());
        }
        Err(self.refusal(answer).await)
    }

    async fn post(&mut self, ask: &Ask) -> Result<Response<Incoming>, Failure> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(ask.path)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(ask.body.clone()));
        self.send(request, self.authorization.clone()).await
    }

    async fn send(
        &mut self,
        request: hyper::http::Result<Request<Full<Bytes>>>,
        authorization: Option<HeaderValue>,
    ) -> Result<Response<Incoming>, Failure> {
        let undone = |error: &dyn std::fmt::Display| Failure::Undone(error.to_string());
        let mut request = request.map_err(|error| undone(&error))?;
        // The path is the same for all, the rest is the gateway's.
        let whole = format!("{}{}", self.url.to_string().trim_end_matches('/'), request.uri());
        *request.uri_mut() = whole.parse().map_err(|error| undone(&error))?;
        let prepared = http::prepare(&mut request, authorization);
        prepared.map_err(|error| from_http(error, &self.access))?;
        self.sender.ready().await.map_err(|error| undone(&error))?;
        self.sender.try_send_request(request).await.map_err(|mut failed| {
            let error = match std::error::Error::source(failed.error()) {
                Some(cause) => format!("{}: {cause}", failed.error()),
                None => failed.error().to_string(),
            };
            let failure = from_http(HttpError::NoAnswer(error), &self.access);
            match failed.take_message() {
                // It never left.
                Some(_) => failure.of_something_unsent(),
                None => failure,
            }
        })
    }

    async fn whole<T: DeserializeOwned>(
        &mut self,
        answer: Response<Incoming>,
    ) -> Result<T, Failure> {
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(answer).await);
        }
        let body = read(answer.into_body(), MAX_ANSWER_BYTES).await?;
        let answer = serde_json::from_slice(&body).map_err(|error| {
            Failure::Unknown(format!("what answers there is no rebootlock gateway: {error}"))
        })?;
        self.answered = Some(Instant::now());
        Ok(answer)
    }

    async fn refusal(&mut self, answer: Response<Incoming>) -> Failure {
        let status = answer.status();
        match read(answer.into_body(), MAX_REFUSAL_BYTES).await {
            Ok(body) => {
                let failure = from_answer(status, &body, &self.access);
                self.answered = Some(Instant::now());
                failure
            }
            Err(_) => from_answer(status, &[], &self.access),
        }
    }
}

async fn read(body: Incoming, limit: usize) -> Result<Bytes, Failure> {
    let read = Limited::new(body, limit).collect().await;
    read.map(http_body_util::Collected::to_bytes)
        .map_err(|error| Failure::Unknown(format!("the answer breaks off: {error}")))
}

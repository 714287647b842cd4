//! The HTTPS endpoint of components that serve nobody's requests but health and metrics: the controller manager on 10257,
//! the scheduler on 10259. Who asks and what he may get is the API server's word.

mod authentication;
mod authorities;
mod authorization;
mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use kybern_apimachinery::{ApiError, GroupResource};
use kybern_apiserver::access::{Attributes, Credentials, Notes, UserInfo};
use kybern_component_base::Reply;
use kybern_component_base::listener::{self, Limits, Listener, Protocol, Slot, Stream};
use rustls_pki_types::CertificateDer;
use tokio::net::TcpListener;

use crate::preflight;
use authentication::Authentication;
pub(crate) use authentication::AuthenticationOptions;
use authorities::CurrentAuthorities;
use authorization::Authorization;
pub(crate) use authorization::AuthorizationOptions;
pub(crate) use tls::{TlsFlags, own_pair};

/// Where and how a component serves.
#[derive(Debug, Args)]
pub(crate) struct ServingOptions {
    /// The address that health and metrics are served on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// The port that health and metrics are served on; 0 serves nothing [default: upstream's].
    #[arg(long)]
    secure_port: Option<u16>,
    /// Holds the serving certificate where none is named; it is made there.
    #[arg(long)]
    cert_dir: Option<PathBuf>,
    /// The serving certificate with its chain (PEM) [default: one that certifies itself].
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// The serving certificate's key (PEM).
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
    /// Shows whoever may get the path below /debug/pprof/ where processor time goes.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub(crate) profiling: bool,
    #[command(flatten)]
    tls: TlsFlags,
    #[command(flatten)]
    authentication: AuthenticationOptions,
    #[command(flatten)]
    authorization: AuthorizationOptions,
}

/// What differs between the components.
pub(crate) struct Component {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    /// Goes on where the ConfigMap with the authorities cannot be read, as upstream's scheduler.
    pub(crate) tolerates_lookup_failure: bool,
}

/// Go's notation of a duration.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    kybern_apimachinery::time::parse_duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))
}

/// Serves GET requests by their path from now on.
pub(crate) async fn start(
    options: &ServingOptions,
    component: &Component,
    answer: impl Fn(&str) -> Reply + Send + Sync + 'static,
) -> Result<()> {
    let address = SocketAddr::new(options.bind_address, options.secure_port.unwrap_or(component.port));
    if address.port() == 0 {
        return Ok(());
    }
    let policy = options.tls.policy()?;
    let authorities = CurrentAuthorities::new(policy.provider());
    let files = options.tls_cert_file.as_deref().zip(options.tls_private_key_file.as_deref());
    let certificate = tls::certificate(files, options.cert_dir.as_deref(), component.name)?;
    let authorization = Authorization::new(&options.authorization)?;
    let bound = TcpListener::bind(address).await;
    let tcp = bound
        .map_err(|error| preflight::cannot_listen(address, "health and metrics", Some("--secure-port"), &error))?;
    let tolerant = component.tolerates_lookup_failure;
    let authentication = Authentication::new(&options.authentication, authorities, tolerant).await?;
    let mut tls =
        policy.server()?.with_client_cert_verifier(authentication.authorities.clone()).with_cert_resolver(certificate);
    tls.alpn_protocols = policy.alpn();
    let endpoint = Arc::new(Endpoint { authentication, authorization, profiling: options.profiling, answer });
    tokio::spawn(endpoint.serve(Listener::new(tcp, component.name, Limits::SERVER), Arc::new(tls)));
    tracing::info!("serving health and metrics on {address}");
    Ok(())
}

struct Endpoint<A> {
    authentication: Arc<Authentication>,
    authorization: Authorization,
    profiling: bool,
    answer: A,
}

impl<A: Fn(&str) -> Reply + Send + Sync + 'static> Endpoint<A> {
    async fn serve(self: Arc<Self>, listener: Listener, tls: Arc<rustls::ServerConfig>) {
        loop {
            let (stream, address, slot) = listener.accept().await;
            let (endpoint, tls) = (Arc::clone(&self), tls.clone());
            tokio::spawn(async move {
                if let Err(error) = endpoint.connection(stream, tls, slot).await {
                    tracing::debug!(%address, error, "a connection ended with an error");
                }
            });
        }
    }

    async fn connection(
        self: Arc<Self>,
        stream: Stream,
        tls: Arc<rustls::ServerConfig>,
        slot: Slot,
    ) -> Result<(), String> {
        let stream = listener::handshake(stream, tls, &slot).await?;
        let tls = stream.get_ref().1;
        let shown = tls.peer_certificates().unwrap_or_default();
        let certificates: Arc<[CertificateDer<'static>]> = shown.iter().map(|c| c.clone().into_owned()).collect();
        let protocol = Protocol::of(tls.alpn_protocol());
        let own = slot.clone();
        let service = move |request: Request<Incoming>| {
            let (endpoint, slot, certificates) = (Arc::clone(&self), own.clone(), certificates.clone());
            async move { Ok::<_, Infallible>(endpoint.request(&request, &certificates, &slot).await) }
        };
        listener::serve(stream, protocol, slot, service).await.map_err(|error| error.to_string())
    }

    async fn request(
        &self,
        request: &Request<Incoming>,
        client_certificates: &[CertificateDer<'static>],
        slot: &Slot,
    ) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        let notes = Notes::default();
        let credentials = Credentials { headers: request.headers(), path, client_certificates, notes: &notes };
        let Some(user) = self.authentication.authenticate(&credentials).await else {
            return refuse(&ApiError::unauthorized());
        };
        if user.name != "system:anonymous" {
            slot.prove();
        }
        let verb = request.method().as_str().to_ascii_lowercase();
        if let Err(reason) = self.authorization.authorize(&user, &verb, path).await {
            return refuse(&forbidden(user, verb, path, &reason));
        }
        if self.profiling && kybern_profiling::is_below(path) {
            return kybern_profiling::serve(request.method(), request.uri()).await.map(Full::new);
        }
        match *request.method() {
            Method::GET | Method::HEAD => respond((self.answer)(path)),
            _ => respond(Reply::text(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n")),
        }
    }
}

fn forbidden(user: UserInfo, verb: String, path: &str, reason: &str) -> ApiError {
    let attributes = Attributes { user, verb, path: path.to_owned(), ..Attributes::default() };
    ApiError::forbidden(&GroupResource::new("", ""), "", &attributes.refusal(reason))
}

fn refuse(error: &ApiError) -> Response<Full<Bytes>> {
    let status = StatusCode::from_u16(error.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    respond(Reply::json(status, error.to_status().to_string()))
}

fn respond(reply: Reply) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(reply.body));
    *response.status_mut() = reply.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(reply.content_type));
    response
}

#[cfg(test)]
mod tests;

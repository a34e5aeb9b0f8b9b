//! A Pingora proxy that does nothing but proxy.
//!
//! One service thread, no work stealing, one upstream, keep-alive on both sides:
//! `bare-pingora LISTEN UPSTREAM [CERTIFICATE KEY]`, with TLS and HTTP/2 where a certificate is given.

use std::process::ExitCode;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::Result;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::server::Server;
use pingora_core::server::configuration::ServerConf;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_proxy::{ProxyHttp, Session, http_proxy_service};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Bare {
    upstream: HttpPeer,
}

#[async_trait]
impl ProxyHttp for Bare {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn upstream_peer(&self, _session: &mut Session, _context: &mut Self::CTX) -> Result<Box<HttpPeer>> {
        Ok(Box::new(self.upstream.clone()))
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (listen, upstream, tls) = match arguments.as_slice() {
        [listen, upstream] => (listen, upstream, None),
        [listen, upstream, certificate, key] => (listen, upstream, Some((certificate, key))),
        _ => {
            eprintln!("usage: bare-pingora LISTEN UPSTREAM [CERTIFICATE KEY]");
            return ExitCode::from(2);
        }
    };
    // Pingora would otherwise install the other provider of the two that its dependencies bring.
    if rustls::crypto::aws_lc_rs::default_provider().install_default().is_err() {
        eprintln!("a TLS provider was installed already");
        return ExitCode::FAILURE;
    }
    let conf =
        ServerConf { threads: 1, work_stealing: false, upstream_keepalive_pool_size: 512, ..ServerConf::default() };
    let mut server = Server::new_with_opt_and_conf(None, conf);
    server.bootstrap();

    let mut upstream = HttpPeer::new(upstream.as_str(), false, String::new());
    upstream.options.idle_timeout = Some(Duration::from_secs(60));
    let mut service = http_proxy_service(&server.configuration, Bare { upstream });
    match tls {
        None => service.add_tcp(listen),
        Some((certificate, key)) => {
            let mut settings = match TlsSettings::intermediate(certificate, key) {
                Ok(settings) => settings,
                Err(error) => {
                    eprintln!("cannot use {certificate} and {key}: {error}");
                    return ExitCode::FAILURE;
                }
            };
            settings.enable_h2();
            service.add_tls_with_settings(listen, None, settings);
        }
    }
    server.add_service(service);
    server.run_forever()
}

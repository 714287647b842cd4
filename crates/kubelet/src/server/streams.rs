//! exec, attach, port-forward and run: the request's query becomes a call of the runtime, its connection the streams.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use kybern_cri::CriError;
use kybern_streaming::{Exit, Wants};

use super::{Body, Context, pods, query_pairs, text};
use crate::pod::spec;

/// What the query of exec and attach says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Query {
    command: Vec<String>,
    wants: Wants,
    ports: Vec<u16>,
}

impl Query {
    /// Both the kubelet's names (`input`, `output`, `error`) and the API's (`stdin`, `stdout`, `stderr`).
    fn parse(query: &str) -> Self {
        let mut parsed = Self::default();
        for (name, value) in query_pairs(query) {
            let set = matches!(value.as_str(), "1" | "true");
            match name.as_str() {
                "command" | "cmd" => parsed.command.push(value),
                "input" | "stdin" => parsed.wants.stdin |= set,
                "output" | "stdout" => parsed.wants.stdout |= set,
                "error" | "stderr" => parsed.wants.stderr |= set,
                "tty" => parsed.wants.tty |= set,
                "port" | "ports" => parsed.ports.extend(value.split(',').filter_map(|port| port.parse::<u16>().ok())),
                _ => {}
            }
        }
        parsed
    }
}

fn answer(response: kybern_streaming::upgrade::Answer) -> Response<Body> {
    response.map(|body| body.map_err(|never| match never {}).boxed_unsync())
}

/// `/exec/<namespace>/<pod>/[<uid>/]<container>`: the id of its running container.
fn target(context: &Context, path: &[&str]) -> Result<String, Box<Response<Body>>> {
    let (namespace, pod, container) = match path {
        [namespace, pod, container] | [namespace, pod, _, container] => (namespace, pod, container),
        _ => return Err(Box::new(text(StatusCode::NOT_FOUND, "404 page not found\n"))),
    };
    let view = pods::find(context, namespace, pod)?;
    Ok(pods::running(&view, container)?.container.id.clone())
}

pub async fn exec(request: Request<Incoming>, context: &Context, path: &[&str]) -> Response<Body> {
    let query = Query::parse(request.uri().query().unwrap_or(""));
    if query.command.is_empty() {
        return text(StatusCode::BAD_REQUEST, "you must specify at least one command for the container");
    }
    if !(query.wants.stdin || query.wants.stdout || query.wants.stderr) {
        return text(StatusCode::BAD_REQUEST, "you must specify at least 1 of stdin, stdout, stderr");
    }
    let id = match target(context, path) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let runtime = context.shared.runtime.clone();
    answer(kybern_streaming::exec(request, query.wants, move |io| async move {
        match runtime.exec(&id, query.command, query.wants.tty, io).await {
            Ok(0) => Exit::Success,
            Ok(code) => Exit::Code(code),
            Err(error) => Exit::Failed(error.to_string()),
        }
    }))
}

pub async fn attach(request: Request<Incoming>, context: &Context, path: &[&str]) -> Response<Body> {
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let id = match target(context, path) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let runtime = context.shared.runtime.clone();
    answer(kybern_streaming::exec(request, query.wants, move |io| async move {
        match runtime.attach(&id, io).await {
            Ok(()) => Exit::Success,
            Err(error) => Exit::Failed(error.to_string()),
        }
    }))
}

pub async fn port_forward(request: Request<Incoming>, context: &Context, path: &[&str]) -> Response<Body> {
    let ([namespace, pod] | [namespace, pod, _]) = path else {
        return text(StatusCode::NOT_FOUND, "404 page not found\n");
    };
    let view = match pods::find(context, namespace, pod) {
        Ok(view) => view,
        Err(refusal) => return *refusal,
    };
    let Some(sandbox) = view.observed.ready_sandbox().map(|s| s.sandbox.id.clone()) else {
        return text(StatusCode::NOT_FOUND, format!("pod {namespace}/{pod} is not running"));
    };
    let query = Query::parse(request.uri().query().unwrap_or(""));
    let runtime = context.shared.runtime.clone();
    let name = format!("{}, uid {}", spec::name(&view.pod), spec::uid(&view.pod));
    let dial: kybern_streaming::port_forward::Dial = Arc::new(move |port| {
        let (runtime, sandbox) = (runtime.clone(), sandbox.clone());
        Box::pin(async move { runtime.port_forward(&sandbox, port).await.map_err(|e| e.to_string()) })
    });
    answer(kybern_streaming::port_forward(request, query.ports, name, dial))
}

/// Runs a command to its end and answers with what it printed.
pub async fn run(context: &Context, namespace: &str, pod: &str, container: &str, query: &str) -> Response<Body> {
    let id = match target(context, &[namespace, pod, container]) {
        Ok(id) => id,
        Err(refusal) => return *refusal,
    };
    let command = Query::parse(query).command;
    let command = command.iter().flat_map(|c| c.split_whitespace()).map(str::to_owned).collect();
    match context.shared.runtime.exec_sync(&id, command, None).await {
        Ok(mut done) => {
            done.stdout.append(&mut done.stderr);
            let status = if done.exit_code == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            text(status, done.stdout)
        }
        Err(CriError::NotFound(message)) => text(StatusCode::NOT_FOUND, message),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let got = Query::parse("command=sh&command=-c&input=1&stdout=true&stderr=false&tty=1&ports=80,81&ports=82");
        assert_eq!(got.command, ["sh", "-c"]);
        assert_eq!(got.wants, Wants { stdin: true, stdout: true, stderr: false, tty: true });
        assert_eq!(got.ports, [80, 81, 82]);
    }
}

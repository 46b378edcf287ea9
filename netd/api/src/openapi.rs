//! The OpenAPI document, assembled from the list of routes and the schemas of the bodies.

use schemars::{Schema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Value, json};

use crate::ApiError;
use crate::cni::*;
use crate::diagnose::*;
use crate::networks::*;
use crate::observe::*;
use crate::types::*;

/// One route of the API.
#[derive(Clone, Copy)]
pub struct RouteDoc {
    /// HTTP method, lower case.
    pub method: &'static str,
    /// Path with `{parameters}`.
    pub path: &'static str,
    /// One line.
    pub summary: &'static str,
    /// Query parameters: `name` of a boolean, or `name:type` with a type of JSON schema.
    pub query: &'static [&'static str],
    /// Schema of the request body.
    pub request: Option<fn(&mut SchemaGenerator) -> Schema>,
    /// Schema of the answer.
    pub response: fn(&mut SchemaGenerator) -> Schema,
}

impl std::fmt::Debug for RouteDoc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

fn of<T: schemars::JsonSchema>(g: &mut SchemaGenerator) -> Schema {
    g.subschema_for::<T>()
}

macro_rules! route {
    ($method:literal $path:literal $summary:literal => $response:ty) => {
        RouteDoc {
            method: $method,
            path: $path,
            summary: $summary,
            query: &[],
            request: None,
            response: of::<$response>,
        }
    };
    ($method:literal $path:literal ?$query:tt $summary:literal => $response:ty) => {
        RouteDoc {
            method: $method,
            path: $path,
            summary: $summary,
            query: &$query,
            request: None,
            response: of::<$response>,
        }
    };
    ($method:literal $path:literal $summary:literal $request:ty => $response:ty) => {
        RouteDoc {
            method: $method,
            path: $path,
            summary: $summary,
            query: &[],
            request: Some(of::<$request>),
            response: of::<$response>,
        }
    };
}

/// Every route netd serves.
pub const ROUTES: &[RouteDoc] = &[
    route!("get" "/v1/openapi.json" "This document" => Value),
    route!("get" "/v1/version" "Version and health of the daemon" => Version),
    route!("get" "/v1/events" ?["since:string", "follow"] "Events, one JSON object a line (NDJSON)" => Event),
    route!("get" "/v1/stats" "Traffic of every interface of every container" => Stats),
    route!("get" "/v1/metrics" "Metrics in the text format of Prometheus" => String),
    route!("get" "/v1/capture"
        ?["container:string", "ifname:string", "snaplen:integer", "duration_ms:integer", "count:integer"]
        "Packets of a container as they pass, as pcapng" => String),
    route!("delete" "/v1/capture/{id}" "End a capture in order; its id is in the header rnet-capture" => Empty),
    route!("get" "/v1/attachments" "All interfaces of all containers" => Vec<Endpoint>),
    route!("post" "/v1/attachments" "Attach a container" AttachRequest => AttachReply),
    route!("get" "/v1/attachments/{id}" "One interface, by id or unique prefix" => Endpoint),
    route!("post" "/v1/detach" "Detach interfaces of a container" DetachRequest => Vec<Endpoint>),
    route!("post" "/v1/wait" "Wait until an interface is ready" WaitRequest => Endpoint),
    route!("get" "/v1/networks" "All networks" => Vec<Network>),
    route!("post" "/v1/networks" "Create a network" rnet_model::NetworkSpec => Network),
    route!("get" "/v1/networks/{name}" "One network, by name, id or unique id prefix" => Network),
    route!("patch" "/v1/networks/{name}" "Change a network" NetworkEdit => Network),
    route!("post" "/v1/networks/prune" "Remove the networks nobody uses" PruneRequest => PruneReply),
    route!("delete" "/v1/networks/{name}" ?["force"] "Remove a network" => Network),
    route!("post" "/v1/networks/{name}/connect" "Connect a container" NetworkConnect => AttachReply),
    route!("post" "/v1/networks/{name}/disconnect" "Disconnect a container" NetworkDisconnect => Vec<Endpoint>),
    route!("post" "/v1/networks/{name}/ping" "Ping from every container of a network to every other" => PingReport),
    route!("get" "/v1/ports" "All published ports" => Vec<Publication>),
    route!("post" "/v1/publish" "Publish ports of a container" PublishRequest => Vec<Publication>),
    route!("post" "/v1/unpublish" "Take published ports back" UnpublishRequest => Vec<Publication>),
    route!("get" "/v1/allocations" "Every address in use with its owner" => Vec<Allocation>),
    route!("get" "/v1/doctor" "What is wrong with the network of this host" => DoctorReport),
    route!("post" "/v1/explain" "Walk a path and name what stops it" ExplainRequest => Explanation),
    route!("get" "/v1/bridges" "All bridges netd made or uses" => Vec<Bridge>),
    route!("post" "/v1/bridges" "Create a bridge" BridgeRequest => Bridge),
    route!("delete" "/v1/bridges/{name}" "Remove a bridge; its uplink gets its addresses back" => Bridge),
    route!("get" "/v1/sandboxes" "All namespaces netd keeps" => Vec<Sandbox>),
    route!("post" "/v1/sandboxes" "Get a namespace for a container" SandboxRequest => Sandbox),
    route!("post" "/v1/sandboxes/{container_id}/connect" "Connect a sandbox to networks" ConnectRequest => Vec<Endpoint>),
    route!("delete" "/v1/sandboxes/{container_id}" ?["forget"] "Give a namespace back" => Empty),
    route!("post" "/v1/cni/add" "Plugin rnet: make an interface" CniAdd => CniReply),
    route!("post" "/v1/cni/del" "Plugin rnet: remove an interface, if it is there" CniDel => Vec<Endpoint>),
    route!("post" "/v1/cni/check" "Plugin rnet: compare an interface with how it was made" CniCheck => CniReply),
    route!("post" "/v1/cni/gc" "Plugin rnet: remove the interfaces that are not valid" CniGc => Vec<Endpoint>),
    route!("post" "/v1/cni/status" "Plugin rnet: whether an interface could be made" CniStatus => Empty),
    route!("get" "/v1/links" "All links between sandboxes" => Vec<Link>),
    route!("post" "/v1/links" "Make links between sandboxes, all or none" Vec<LinkRequest> => Vec<Link>),
    route!("delete" "/v1/links/{id}" "Remove a link" => Empty),
];

/// A name for generated clients: `getNetworks`, `getNetworksByName`, `postNetworksByNameConnect`.
fn operation_id(route: &RouteDoc) -> String {
    let mut id = route.method.to_owned();
    for segment in route.path.split('/').skip(2) {
        let parameter = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        if parameter.is_some() {
            id.push_str("By");
        }
        for word in parameter.unwrap_or(segment).split(['_', '.']) {
            let (first, rest) = word.split_at(word.len().min(1));
            id.push_str(&first.to_ascii_uppercase());
            id.push_str(rest);
        }
    }
    id
}

/// The OpenAPI 3.1 document of [`ROUTES`].
pub fn document() -> Value {
    let mut generator =
        SchemaSettings::draft2020_12().with(|s| s.definitions_path = "/components/schemas".into()).into_generator();
    let error = of::<ApiError>(&mut generator);
    let mut paths = serde_json::Map::new();
    for route in ROUTES {
        let in_path = route.path.split('/').filter_map(|s| s.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Vec<Value> = in_path
            .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string"}}))
            .chain(route.query.iter().map(|query| {
                let (name, kind) = query.split_once(':').unwrap_or((query, "boolean"));
                json!({"name": name, "in": "query", "schema": {"type": kind}})
            }))
            .collect();
        let media = match route.path {
            "/v1/events" => "application/x-ndjson",
            "/v1/metrics" => "text/plain",
            "/v1/capture" => "application/x-pcapng",
            _ => "application/json",
        };
        let mut operation = json!({
            "operationId": operation_id(route),
            "summary": route.summary,
            "parameters": parameters,
            "responses": {
                "200": {"description": "done", "content": {media: {"schema": (route.response)(&mut generator)}}},
                "default": {"description": "refused", "content": {"application/json": {"schema": error}}},
            },
        });
        if let Some(request) = route.request {
            operation["requestBody"] =
                json!({"required": true, "content": {"application/json": {"schema": request(&mut generator)}}});
        }
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method] = operation;
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "netd", "version": env!("CARGO_PKG_VERSION"), "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {"schemas": generator.take_definitions(true)},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_an_id_of_its_own() {
        let ids: std::collections::BTreeSet<_> = ROUTES.iter().map(operation_id).collect();
        assert_eq!(ids.len(), ROUTES.len());
        for id in ["getOpenapiJson", "getNetworksByName", "postSandboxesByContainerIdConnect"] {
            assert!(ids.contains(id), "{id} is not in {ids:?}");
        }
    }

    #[test]
    fn every_reference_resolves() {
        let doc = document();
        let text = doc.to_string();
        for part in text.split("\"$ref\":\"#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(doc["components"]["schemas"].get(name).is_some(), "{name} is missing");
        }
        let paths: std::collections::BTreeSet<_> = ROUTES.iter().map(|r| r.path).collect();
        assert_eq!(doc["paths"].as_object().map(serde_json::Map::len), Some(paths.len()));
    }
}

//! Protobuf: built-in objects to bytes and back, by the tags of the schema table.
//!
//! A body is the magic `k8s\0` and an envelope that names the kind; inside is the object's message. JSON flattens some
//! embedded messages; the rows say which. Custom resources have no protobuf form.
//!
//! Upstream's encoders write many fields at their zero value, which its decoders take for absent. So that an object is the
//! same whichever way it came, `schema/zeros.rows` says which zeros are dropped. Unknown fields are skipped, as upstream does.
//!
//! Bytes are hostile: lengths are checked before they are used, nesting is bounded, text must be UTF-8.

mod decode;
mod encode;
mod wire;

use serde_json::{Value, json};

use crate::resource::Resource;
use crate::status::ApiError;
use crate::table::{Schema, TypeView};

/// What precedes every body.
pub const MAGIC: &[u8; 4] = b"k8s\0";
/// The media type.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The magic is missing.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// A length leads beyond the end.
    #[error("unexpected end of the protobuf message")]
    Truncated,
    /// A number is longer than a number can be.
    #[error("malformed number in the protobuf message")]
    Varint,
    /// A field has another wire type than its row says.
    #[error("wrong wire type for field {0}")]
    WireType(u32),
    /// Text is not UTF-8.
    #[error("field {0} contains invalid UTF-8")]
    Utf8(u32),
    /// Embedded JSON is not JSON.
    #[error("field {0} does not contain JSON")]
    Json(u32),
    /// Messages nest deeper than is allowed.
    #[error("the protobuf message nests too deep")]
    TooDeep,
}

/// An unwrapped body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// `kind` of the object.
    pub kind: String,
    /// The object's message.
    pub raw: &'a [u8],
}

/// Takes the envelope off a body.
pub fn unwrap(body: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let message = body.strip_prefix(MAGIC).ok_or(ProtoError::NoMagic)?;
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    for field in wire::fields(message) {
        match field? {
            (1, wire::Wire::Bytes(type_meta)) => {
                for field in wire::fields(type_meta) {
                    match field? {
                        (1, wire::Wire::Bytes(text)) => envelope.api_version = wire::text(1, text)?,
                        (2, wire::Wire::Bytes(text)) => envelope.kind = wire::text(2, text)?,
                        _ => {}
                    }
                }
            }
            (2, wire::Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Puts the envelope around a message.
pub fn wrap(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    wire::message(&mut out, 1, |out| {
        wire::bytes(out, 1, api_version.as_bytes());
        wire::bytes(out, 2, kind.as_bytes());
    });
    wire::bytes(&mut out, 2, raw);
    // Upstream always writes these two, empty.
    wire::bytes(&mut out, 3, b"");
    wire::bytes(&mut out, 4, b"");
    out
}

/// Reads a body that is an object of `resource`. It is of the right types, but not yet canonical: conform it like any other.
pub fn decode_object(schema: &Schema, resource: &Resource, body: &[u8]) -> Result<Value, ApiError> {
    let envelope = unwrap(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let view = builtin(schema, resource)?;
    let mut value = decode::message(view, envelope.raw).map_err(|e| ApiError::bad_request(e.to_string()))?;
    for (key, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
        if !text.is_empty() {
            value[key] = json!(text);
        }
    }
    Ok(value)
}

/// Reads a body of any built-in kind, such as `DeleteOptions` or `Scale`.
pub fn decode_kind(view: TypeView<'_>, body: &[u8]) -> Result<Value, ApiError> {
    let envelope = unwrap(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
    let mut value = decode::message(view, envelope.raw).map_err(|e| ApiError::bad_request(e.to_string()))?;
    value["apiVersion"] = json!(envelope.api_version);
    value["kind"] = json!(envelope.kind);
    Ok(value)
}

/// An object of any built-in kind as a body, its kind read from the object.
pub fn encode_kind(view: TypeView<'_>, object: &Value) -> Vec<u8> {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    wrap(text("apiVersion"), text("kind"), &encode::message(view, object))
}

/// An object of `resource` as a body.
pub fn encode_object(schema: &Schema, resource: &Resource, object: &Value) -> Result<Vec<u8>, ApiError> {
    let view = builtin(schema, resource)?;
    Ok(wrap(&resource.api_version(), &resource.kind, &encode::message(view, object)))
}

/// The message of an object of `resource`, without the envelope.
pub fn encode_message(schema: &Schema, resource: &Resource, object: &Value) -> Result<Vec<u8>, ApiError> {
    Ok(encode::message(builtin(schema, resource)?, object))
}

/// A list of objects of `resource` as a body, made of their messages; `metadata` is the list's.
pub fn join_list(schema: &Schema, resource: &Resource, metadata: &Value, items: &[impl AsRef<[u8]>]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(items.iter().map(|item| item.as_ref().len() + 8).sum());
    wire::bytes(&mut raw, 1, &list_meta(schema, metadata));
    items.iter().for_each(|item| wire::bytes(&mut raw, 2, item.as_ref()));
    wrap(&resource.api_version(), &resource.list_kind, &raw)
}

/// Whether objects of `resource` have a protobuf form.
pub fn has_form(resource: &Resource) -> bool {
    builtin(Schema::builtin(), resource).is_ok()
}

/// A `Status` of meta/v1 as a body.
pub fn encode_status(status: &Value) -> Vec<u8> {
    let view = Schema::builtin().type_named("io.k8s.apimachinery.pkg.apis.meta.v1.Status");
    let raw = view.map_or_else(Vec::new, |view| encode::message(view, status));
    wrap("v1", "Status", &raw)
}

/// The metadata of objects alone: `PartialObjectMetadata` of `meta.k8s.io/{version}`.
pub fn encode_metadata(metadata: &Value, version: &str) -> Vec<u8> {
    wrap(&format!("meta.k8s.io/{version}"), "PartialObjectMetadata", &partial(metadata))
}

/// `PartialObjectMetadataList` of `meta.k8s.io/{version}`.
pub fn encode_metadata_list<'a>(schema: &Schema, list: &Value, items: impl IntoIterator<Item = &'a Value>, version: &str) -> Vec<u8> {
    let mut raw = Vec::new();
    wire::bytes(&mut raw, 1, &list_meta(schema, list));
    items.into_iter().for_each(|metadata| wire::bytes(&mut raw, 2, &partial(metadata)));
    wrap(&format!("meta.k8s.io/{version}"), "PartialObjectMetadataList", &raw)
}

/// One event of a watch with its length in front: a frame of `{MEDIA_TYPE};stream=watch`. `object` is a body as above.
pub fn watch_frame(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut event = Vec::with_capacity(object.len() + 32);
    wire::bytes(&mut event, 1, kind.as_bytes());
    wire::message(&mut event, 2, |out| wire::bytes(out, 1, object));
    let length = u32::try_from(event.len()).unwrap_or(u32::MAX);
    let mut frame = length.to_be_bytes().to_vec();
    frame.append(&mut event);
    frame
}

/// The type of a resource that has a protobuf form; others are refused as upstream refuses them.
fn builtin<'a>(schema: &'a Schema, resource: &Resource) -> Result<TypeView<'a>, ApiError> {
    let view = resource.type_id.filter(|id| id.is_builtin()).and_then(|id| schema.get(id));
    let own = |view: &TypeView<'_>| view.name().starts_with("io.k8s.");
    view.filter(own).ok_or_else(|| ApiError::not_acceptable(&["application/json", "application/yaml"]))
}

fn partial(metadata: &Value) -> Vec<u8> {
    let view = Schema::builtin().type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
    let mut raw = Vec::new();
    wire::bytes(&mut raw, 1, &view.map_or_else(Vec::new, |view| encode::message(view, metadata)));
    raw
}

fn list_meta(schema: &Schema, metadata: &Value) -> Vec<u8> {
    let view = schema.type_named("io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta");
    view.map_or_else(Vec::new, |view| encode::message(view, metadata))
}

//! What `tests/fuzz` reaches of this crate: decoders of text from outside, as functions of that text. For tests only.

use std::sync::Arc;

use pintle_api::Resource;

use crate::list::Token;
use crate::registry::Result;
use crate::selector::Selector;
use crate::target::ResourceInfo;

/// Reads a continue token and writes it again.
///
/// # Errors
/// It is no token.
pub fn continue_token(text: &str) -> Result<String> {
    let token = Token::decode(text)?;
    Ok(Token::encode(token.rv, token.start))
}

/// Whether `object`, the JSON of a stored object of `resource`, is selected; `None` when it is no object.
///
/// # Errors
/// A selector cannot be read.
pub fn selects(resource: &Resource, labels: &str, fields: &str, object: &[u8]) -> Result<Option<bool>> {
    let resource = Arc::new(ResourceInfo::new(resource.clone()));
    let selector = Selector::parse(&resource, labels, fields)?;
    let object = crate::encode::publish(&resource, object, pintle_store::Revision(1));
    Ok(object.ok().map(|object| selector.matches(&object)))
}

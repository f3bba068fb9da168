//! resourceVersions as clients write them, and the rules by which they combine (one place refuses them).

use pintle_api::{ApiError, FieldError};
use pintle_store::Revision;

use crate::options::{InitialEvents, ListOptions, VersionMatch, WatchOptions};

/// What a client means by a resourceVersion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// None given: most recent.
    Latest,
    /// `0`: whatever there is.
    Any,
    /// A number.
    At(Revision),
}

/// Read a resourceVersion: decimal digits.
pub(crate) fn parse(text: &str) -> Result<Asked, ApiError> {
    match text {
        "" => Ok(Asked::Latest),
        "0" => Ok(Asked::Any),
        digits if digits.bytes().all(|b| b.is_ascii_digit()) => match digits.parse() {
            Ok(number) => Ok(Asked::At(Revision(number))),
            Err(_) => Err(invalid_version(text)),
        },
        _ => Err(invalid_version(text)),
    }
}

fn invalid_version(text: &str) -> ApiError {
    ApiError::bad_request(format!("Invalid value: {text:?}: resourceVersion must be a decimal number"))
}

/// Hold list options against upstream's rules.
pub(crate) fn check_list(options: &ListOptions) -> Result<(), ApiError> {
    let Some(version_match) = options.version_match else { return Ok(()) };
    let text = match version_match {
        VersionMatch::Exact => "Exact",
        VersionMatch::NotOlderThan => "NotOlderThan",
    };
    if !options.continue_token.is_empty() {
        return Err(refuse("resourceVersionMatch is forbidden when continue is provided"));
    }
    if options.resource_version.is_empty() {
        return Err(refuse("resourceVersionMatch is forbidden unless resourceVersion is provided"));
    }
    if version_match == VersionMatch::Exact && options.resource_version == "0" {
        return Err(refuse(&format!("resourceVersionMatch \"{text}\" is forbidden for resourceVersion \"0\"")));
    }
    Ok(())
}

/// Hold watch options against upstream's rules.
pub(crate) fn check_watch(options: &WatchOptions) -> Result<(), ApiError> {
    match (options.initial_events, options.version_match) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err(refuse("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")),
        (Some(_), Some(VersionMatch::NotOlderThan)) => {
            if options.initial_events == Some(InitialEvents::Send) && options.bookmarks == crate::options::Bookmarks::No {
                return Err(forbidden("sendInitialEvents", "sendInitialEvents requires setting allowWatchBookmarks"));
            }
            Ok(())
        }
        (Some(_), _) => Err(refuse("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")),
    }
}

fn refuse(why: &str) -> ApiError {
    forbidden("resourceVersionMatch", why)
}

fn forbidden(field: &str, why: &str) -> ApiError {
    ApiError::invalid_kind("meta.k8s.io", "ListOptions", "", &[FieldError::forbidden(field, why)])
}

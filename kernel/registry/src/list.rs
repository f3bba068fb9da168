//! Gets and lists. Most are answered from the cache; an older revision, and the later pages of a chunked list once
//! something changed, from the store's history.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pintle_api::ApiError;
use pintle_store::{RangeQuery, Revision};
use serde::{Deserialize, Serialize};

use crate::cache::{Scan, Snapshot, suffix_of};
use crate::encode;
use crate::key;
use crate::object::Object;
use crate::options::{GetOptions, ListOptions, VersionMatch};
use crate::registry::{ListPage, Registry, Result};
use crate::revision::{self, Asked};
use crate::selector::Selector;
use crate::target::Target;

/// How long a read waits for a resourceVersion that is not there yet, seconds; then 504.
const WAIT_SECONDS: u64 = 3;
/// Entries of history read at once.
const HISTORY_PAGE_ENTRIES: usize = 500;
const TOKEN_VERSION: &str = "meta.k8s.io/v1";
/// Longest continue token that is looked at, bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// A continue token, in upstream's form: base64url of this JSON. `start` is relative to the resource's keys.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Token {
    v: String,
    /// The list's revision; -1: whatever is newest (an inconsistent continuation after 410).
    pub(crate) rv: i64,
    pub(crate) start: String,
}

impl Token {
    pub(crate) fn encode(rv: i64, start: String) -> String {
        let token = Self { v: TOKEN_VERSION.to_owned(), rv, start };
        // A struct of two strings and a number always serializes.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    pub(crate) fn decode(text: &str) -> Result<Self> {
        let bad = || ApiError::bad_request("continue key is not valid");
        if text.len() > TOKEN_BYTES_MAX {
            return Err(bad());
        }
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
        let token: Self = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        if token.v != TOKEN_VERSION || token.start.is_empty() || token.rv == 0 || token.rv < -1 {
            return Err(bad());
        }
        Ok(token)
    }
}

impl Registry {
    pub(crate) async fn read_object(&self, target: &Target, options: &GetOptions) -> Result<Arc<Object>> {
        if let Asked::At(at) = revision::parse(&options.resource_version)? {
            self.wait_not_older(at).await?;
        }
        self.current_shown(target).await
    }

    /// A page in the words of the target's version. What a selector asks is asked of the objects as they are shown.
    pub(crate) async fn read_list(&self, target: &Target, options: &ListOptions, selector: &Selector) -> Result<ListPage> {
        let resource = &target.resource;
        if !resource.is_converted() || !selector.is_about_content() {
            let page = self.read_page(target, options, selector).await?;
            return Ok(ListPage { items: self.shown(resource, page.items).await?, ..page });
        }
        // With a limit, a version is read as with one.
        let limit = if options.limit == 0 { 0 } else { usize::MAX };
        let page = self.read_page(target, &ListOptions { limit, ..options.clone() }, &selector.without_content()).await?;
        let mut items = self.shown(resource, page.items).await?;
        items.retain(|object| selector.matches(object));
        let mut continue_token = String::new();
        if options.limit > 0 && items.len() > options.limit {
            items.truncate(options.limit);
            continue_token = token_after(&items, page.revision);
        }
        Ok(ListPage { items, revision: page.revision, continue_token, remaining: None })
    }

    async fn read_page(&self, target: &Target, options: &ListOptions, selector: &Selector) -> Result<ListPage> {
        revision::check_list(options)?;
        if !options.continue_token.is_empty() {
            return self.continue_list(target, options, selector).await;
        }
        let scan = Scan { namespace: &target.namespace, start: "", selector, limit: options.limit };
        match (revision::parse(&options.resource_version)?, options.version_match) {
            (Asked::At(at), Some(VersionMatch::Exact)) => self.list_at(target, &scan, at).await,
            // Upstream: a limit with a version and no match reads that version exactly.
            (Asked::At(at), None) if options.limit > 0 => self.list_at(target, &scan, at).await,
            (Asked::At(at), _) => {
                self.wait_not_older(at).await?;
                self.list_now(target, &scan)
            }
            (Asked::Latest | Asked::Any, _) => self.list_now(target, &scan),
        }
    }

    async fn continue_list(&self, target: &Target, options: &ListOptions, selector: &Selector) -> Result<ListPage> {
        if !matches!(options.resource_version.as_str(), "" | "0") {
            return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
        }
        let token = Token::decode(&options.continue_token)?;
        if !target.namespace.is_empty() && !token.start.starts_with(&format!("{}/", target.namespace)) {
            return Err(ApiError::bad_request("continue key is not valid"));
        }
        let scan = Scan { namespace: &target.namespace, start: &token.start, selector, limit: options.limit };
        let Ok(at) = u64::try_from(token.rv) else { return self.list_now(target, &scan) };
        match self.list_at(target, &scan, Revision(at)).await {
            Err(err) if err.code == 410 => Err(ApiError::expired_list(Some(Token::encode(-1, token.start.clone())))),
            other => other,
        }
    }

    fn list_now(&self, target: &Target, scan: &Scan<'_>) -> Result<ListPage> {
        let shard = self.shard(&target.resource)?;
        Ok(page(shard.scan(&self.fed.cache, scan), scan))
    }

    /// As of a revision: from the cache if nothing of the resource changed since, else from history.
    async fn list_at(&self, target: &Target, scan: &Scan<'_>, at: Revision) -> Result<ListPage> {
        self.wait_not_older(at).await?;
        let oldest = self.store.compacted();
        if at < oldest {
            return Err(ApiError::too_old_resource_version(at.0, oldest.0));
        }
        let shard = self.shard(&target.resource)?;
        if let Some(found) = shard.scan_at(scan, at) {
            return Ok(page(found, scan));
        }
        Ok(page(self.scan_history(target, scan, at).await?, scan))
    }

    async fn scan_history(&self, target: &Target, scan: &Scan<'_>, at: Revision) -> Result<Snapshot> {
        let resource = &target.resource;
        let mut prefix = key::prefix(resource.key());
        if !scan.namespace.is_empty() {
            prefix.push_str(scan.namespace);
            prefix.push('/');
        }
        let mut query = RangeQuery::prefix(prefix).at(at).limit(HISTORY_PAGE_ENTRIES).skip_remaining();
        if !scan.start.is_empty() {
            query.start = key::of(resource.key(), scan.start);
        }
        let stored_as = self.shard(resource)?;
        let mut found = Snapshot { objects: Vec::new(), revision: at, more: false, remaining: 0 };
        loop {
            let read = self.store.range(query.clone()).await.map_err(|err| self.store_error(resource, "", &err))?;
            for entry in &read.entries {
                let object = encode::publish(&stored_as.resource, &entry.value, entry.mod_revision).map_err(ApiError::internal)?;
                if !scan.selector.matches(&object) {
                    continue;
                }
                if scan.limit > 0 && found.objects.len() == scan.limit {
                    found.more = true;
                    found.remaining = self.count_from(query.clone(), &entry.key).await.unwrap_or_default();
                    return Ok(found);
                }
                found.objects.push(Arc::new(object));
            }
            match read.entries.last() {
                Some(last) if read.more => query = query.after_key(&last.key),
                _ => return Ok(found),
            }
        }
    }

    async fn count_from(&self, mut query: RangeQuery, key: &bytes::Bytes) -> Option<u64> {
        query.start = key.clone();
        query.limit = Some(1);
        query.remaining = pintle_store::Remaining::Count;
        let read = self.store.range(query).await.ok()?;
        Some(read.remaining? + read.entries.len() as u64)
    }

    /// Wait until reads see `at`.
    ///
    /// # Errors
    /// 504 when it does not come.
    pub(crate) async fn wait_not_older(&self, at: Revision) -> Result<()> {
        if self.fed.cache.applied() >= at {
            return Ok(());
        }
        let reached = tokio::time::timeout(Duration::from_secs(WAIT_SECONDS), self.fed.cache.reached(at)).await;
        reached.map_err(|_| ApiError::too_large_resource_version(at.0, self.fed.cache.applied().0))
    }
}

fn token_after(objects: &[Arc<Object>], revision: Revision) -> String {
    let encode = |last: &Arc<Object>| Token::encode(i64::try_from(revision.0).unwrap_or(-1), format!("{}\0", suffix_of(last)));
    objects.last().map_or_else(String::new, encode)
}

fn page(found: Snapshot, scan: &Scan<'_>) -> ListPage {
    let continue_token = if found.more { token_after(&found.objects, found.revision) } else { String::new() };
    let remaining = (found.more && !scan.selector.is_selective()).then_some(found.remaining);
    ListPage { items: found.objects, revision: found.revision, continue_token, remaining }
}

#[cfg(test)]
mod tests;

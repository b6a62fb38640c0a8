//! Objects into one cluster, by server-side apply: looked at all before the first is changed, never over another
//! owner's, and what an earlier installation had beyond them is removed.

use clusters::{Cluster, ObjectError};
use serde_json::{Value, json};

use super::kinds::{self, MANAGER, OWNER};

#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    #[error(
        "cluster of context `{context}`: `{object}` belongs to {owner}; nothing was changed there"
    )]
    Foreign {
        context: String,
        object: String,
        owner: String,
    },
    #[error("cluster of context `{context}`: `{object}`")]
    Object {
        context: String,
        object: String,
        #[source]
        source: ObjectError,
    },
}

impl ApplyError {
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::Foreign { owner, .. } if owner.starts_with("helm") => {
                Some("change it by `helm upgrade`, or `helm uninstall` it first".to_owned())
            }
            Self::Foreign { object, .. } if object.starts_with("namespace/") => Some(
                "set `namespace.create: false`, and label it: kubectl label ns NAME pod-security.kubernetes.io/enforce=privileged"
                    .to_owned(),
            ),
            Self::Foreign { .. } => Some("remove it, or install into another namespace".to_owned()),
            Self::Object { source: ObjectError::Conflict(_), .. } => Some(
                "somebody else set these fields; undo that, or take them over there".to_owned(),
            ),
            Self::Object { source: ObjectError::NotFound(_), object, .. } => Some(
                if object.starts_with("certificate/") || object.contains("monitor/") {
                    "the cluster does not know this kind: install its operator, or turn the value off"
                } else {
                    "make the namespace, or set `namespace.create: true`"
                }
                .to_owned(),
            ),
            Self::Object { source: ObjectError::Forbidden(_), .. } => {
                Some("installing needs the rights of an administrator of the cluster".to_owned())
            }
            Self::Object { .. } => None,
        }
    }
}

/// What became of one object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Created,
    Configured,
    Unchanged,
    Removed,
    /// Of a dry run: cannot be tried before the namespace is there.
    Untried,
}

impl Change {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Configured => "configured",
            Self::Unchanged => "unchanged",
            Self::Removed => "removed",
            Self::Untried => "not tried: the namespace is not there yet",
        }
    }
}

/// Puts `objects` into the cluster, in their order, and says what became of each. `namespace` is where they lie.
pub(super) async fn apply(
    cluster: &Cluster,
    objects: &[Value],
    namespace: &str,
    dry_run: bool,
) -> Result<Vec<(String, Change)>, ApplyError> {
    let failed = |object: &Value, source| ApplyError::Object {
        context: cluster.context.clone(),
        object: kinds::name(object),
        source,
    };
    let mut before = Vec::new();
    for object in objects {
        let kind = kinds::of(object).ok_or_else(|| failed(object, ObjectError::UnknownKind))?;
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let found = cluster.get(kind, namespace, name).await;
        let found = found.map_err(|source| failed(object, source))?;
        if let Some(found) = &found
            && kinds::owner(found) != Some(MANAGER)
        {
            return Err(ApplyError::Foreign {
                context: cluster.context.clone(),
                object: kinds::name(object),
                owner: describe_owner(found),
            });
        }
        before.push((kind, found));
    }
    let mut changes = Vec::new();
    let mut without_namespace = false;
    for (object, (kind, found)) in objects.iter().zip(&before) {
        if without_namespace && kind.namespaced {
            changes.push((kinds::name(object), Change::Untried));
            continue;
        }
        let mut object = object.clone();
        object["metadata"]["labels"][OWNER] = json!(MANAGER);
        let applied = cluster.apply(*kind, &object, MANAGER, dry_run).await;
        let applied = applied.map_err(|source| failed(&object, source))?;
        let change = match found {
            None => Change::Created,
            Some(found) if same(found, &applied) => Change::Unchanged,
            Some(_) => Change::Configured,
        };
        without_namespace |= dry_run && !kind.namespaced && change == Change::Created;
        changes.push((kinds::name(&object), change));
    }
    let own = format!("{OWNER}={MANAGER}");
    for kind in kinds::NAMESPACED {
        let there = cluster.list(kind, namespace, &own).await;
        let there = there.map_err(|source| failed(&json!({"kind": kind.kind}), source))?;
        for surplus in there {
            let name = kinds::name(&surplus);
            if objects.iter().any(|object| kinds::name(object) == name) {
                continue;
            }
            if !dry_run {
                let bare = surplus["metadata"]["name"].as_str().unwrap_or_default();
                let deleted = cluster.delete(kind, namespace, bare).await;
                deleted.map_err(|source| failed(&surplus, source))?;
            }
            changes.push((name, Change::Removed));
        }
    }
    Ok(changes)
}

/// Nothing but the bookkeeping of who applied when may differ.
fn same(before: &Value, after: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
        }
        object
    };
    bare(before) == bare(after)
}

fn describe_owner(found: &Value) -> String {
    let metadata = &found["metadata"];
    if let Some(release) = metadata["annotations"]["meta.helm.sh/release-name"].as_str() {
        return format!("helm's release `{release}`");
    }
    match kinds::owner(found) {
        Some(owner) => format!("`{owner}`"),
        None => "somebody else".to_owned(),
    }
}

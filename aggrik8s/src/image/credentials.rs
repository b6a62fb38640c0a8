//! Who we are at a registry: from the environment, or from what `docker login` and `podman login` left.

use std::path::PathBuf;

use base64::Engine as _;
use oci_client::secrets::RegistryAuth;
use serde_json::Value;

/// Credentials for `registry` (its host and port); anonymous if there are none.
pub(crate) fn find(registry: &str) -> RegistryAuth {
    let from_env = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    if let (Some(user), Some(password)) = (
        from_env("AGGRIK8S_REGISTRY_USER"),
        from_env("AGGRIK8S_REGISTRY_PASSWORD"),
    ) {
        return RegistryAuth::Basic(user, password);
    }
    let home = |path: &str| Some(PathBuf::from(std::env::var_os("HOME")?).join(path));
    let folder =
        |variable: &str, path: &str| Some(PathBuf::from(std::env::var_os(variable)?).join(path));
    let files = [
        std::env::var_os("REGISTRY_AUTH_FILE").map(PathBuf::from),
        folder("DOCKER_CONFIG", "config.json"),
        folder("XDG_RUNTIME_DIR", "containers/auth.json"),
        home(".docker/config.json"),
    ];
    let mut configs = files.into_iter().flatten().filter_map(|path| {
        let text = std::fs::read_to_string(path).ok()?;
        serde_json::from_str::<Value>(&text).ok()
    });
    configs
        .find_map(|config| login(&config, registry))
        .unwrap_or(RegistryAuth::Anonymous)
}

/// What a file of logins says of one registry.
fn login(config: &Value, registry: &str) -> Option<RegistryAuth> {
    let auths = config["auths"].as_object()?;
    let host = |key: &str| {
        let key = key.strip_prefix("https://").unwrap_or(key);
        key.split('/').next().unwrap_or(key).to_owned()
    };
    let (_, entry) = auths.iter().find(|(key, _)| host(key) == registry)?;
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(entry["auth"].as_str()?)
        .ok()?;
    let decoded = String::from_utf8(decoded).ok()?;
    let (user, password) = decoded.split_once(':')?;
    Some(RegistryAuth::Basic(user.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_are_found_by_host() {
        let config = serde_json::json!({"auths": {
            "https://r.lan:5000/v2/": {"auth": "dXNlcjpwYTpzcw=="},
            "other.lan": {},
        }});
        let found = login(&config, "r.lan:5000");
        let Some(RegistryAuth::Basic(user, password)) = found else {
            panic!("{found:?}");
        };
        assert_eq!((user.as_str(), password.as_str()), ("user", "pa:ss"));
        assert!(login(&config, "other.lan").is_none());
        assert!(login(&config, "r.lan").is_none());
        assert!(login(&serde_json::json!({}), "r.lan").is_none());
    }
}

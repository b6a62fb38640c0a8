//! `certificate.ca`, `.expiry`, `.renewal`: who trusts whom, and until when.

use super::finding::{Finding, Problem, Rows, some};
use super::view::{Certificate, KeyPair, Seen, Unread};
use super::world::{Cluster, Pair, World, shell};
use crate::checks::{CERTIFICATE_CA, CERTIFICATE_EXPIRY, CERTIFICATE_RENEWAL};

/// The Secrets whose certificates the mesh rests on.
pub(super) const SECRETS: [&str; 4] = [
    SERVER,
    CLIENT,
    "clustermesh-apiserver-local-cert",
    "clustermesh-apiserver-admin-cert",
];
const SERVER: &str = "clustermesh-apiserver-server-cert";
const CLIENT: &str = "clustermesh-apiserver-remote-cert";

const DAY: i64 = 86_400;
const SOON: i64 = 30 * DAY;

pub(super) fn find(world: &World<'_>, rows: &mut Rows, now: i64) {
    if !world.uses_clustermesh() {
        return;
    }
    for pair in world.pairs() {
        if !pair.from.lacks_cilium() && !pair.to.lacks_cilium() {
            rows.add(CERTIFICATE_CA, pair, trusted(pair));
        }
    }
    for cluster in world.clusters().filter(|cluster| !cluster.lacks_cilium()) {
        rows.add(CERTIFICATE_EXPIRY, cluster, expiry(cluster, now));
        rows.add(CERTIFICATE_RENEWAL, cluster, renewal(cluster, now));
    }
}

fn pair_of<'a>(cluster: Cluster<'a>, secret: &str) -> Seen<Option<&'a KeyPair>> {
    match cluster.facts.certificates.get(secret) {
        Some(Ok(pair)) => Ok(pair.as_ref()),
        Some(Err(unread)) => Err(unread.clone()),
        None => Err(Unread::Failed(format!("Secret {secret} was not read"))),
    }
}

/// `from` connects to `to`: it must trust the server's signer, and the server must trust the signer of its client certificate.
fn trusted(pair: Pair<'_>) -> Finding {
    let Pair { from, to } = pair;
    let read = |cluster: Cluster<'_>, secret: &str| match pair_of(cluster, secret) {
        Ok(Some(pair)) if !pair.chain.is_empty() => Ok(pair.clone()),
        Ok(_) => Err(Finding::Undecided(
            format!(
                "there is no certificate in Secret {secret}: `{}`",
                cluster.context
            ),
            "`clustermesh.apiserver.tls.auto.enabled: true` makes them".to_owned(),
        )),
        Err(unread) => Err(Finding::unread(cluster.context, &unread)),
    };
    let (server, client) = match (read(to, SERVER), read(from, CLIENT)) {
        (Ok(server), Ok(client)) => (server, client),
        (Err(finding), _) | (_, Err(finding)) => return finding,
    };
    let own = to.name().and_then(|name| from.way_to(name));
    let (place, trust) = match (own, &from.facts.trust) {
        (Ok(Some(way)), _) if way.trust.is_some() => (
            format!("{}.etcd-client-ca.crt", way.name),
            way.trust.clone().unwrap_or_default(),
        ),
        (_, Ok(Some(trust))) => (trust.place.clone(), trust.authorities.clone()),
        (_, Ok(None)) => {
            return Finding::Undecided(
                format!("nothing says which CA is trusted: `{}`", from.context),
                "volume `clustermesh-secrets` of DaemonSet cilium".to_owned(),
            );
        }
        (_, Err(unread)) => return Finding::unread(from.context, unread),
    };
    let problem = |who: Cluster<'_>,
                   whose: Cluster<'_>,
                   what: &str,
                   leaf: &Certificate,
                   trust: &[Certificate],
                   place: &str| {
        let known: Vec<String> = trust
            .iter()
            .map(|ca| short(ca.key_id.as_deref().unwrap_or(&ca.fingerprint)))
            .collect();
        Finding::Fail(Problem {
            cause: "certificate.untrusted",
            summary: format!(
                "`{}` does not trust the CA that signed the {what} certificate of `{}`",
                who.context, whose.context
            ),
            evidence: vec![
                format!(
                    "{what} certificate of `{}`: signed by {} ({})",
                    whose.context,
                    short(leaf.authority.as_deref().unwrap_or("an unknown key")),
                    leaf.issuer
                ),
                format!("`{}` trusts {} ({place})", who.context, some(&known, 4)),
            ],
            hint: format!(
                "one CA for all clusters: `kubectl --context {} -n kube-system get secret cilium-ca -o yaml | kubectl --context {} apply -f -`, then let Cilium renew the certificates of `{}`; or both CAs in `tls.caBundle.content` with `tls.caBundle.enabled: true` on both",
                shell(from.context),
                shell(to.context),
                to.context
            ),
        })
    };
    let leaf = &server.chain[0];
    match signed(leaf, &server, &trust) {
        Some(true) => {}
        Some(false) => return problem(from, to, "server", leaf, &trust, &place),
        None => return unclear(to),
    }
    let leaf = &client.chain[0];
    match signed(leaf, &client, &server.ca) {
        Some(true) => Finding::Pass(format!(
            "server certificate signed by {}, client certificate by {}",
            short(server.chain[0].authority.as_deref().unwrap_or("a known CA")),
            short(leaf.authority.as_deref().unwrap_or("a known CA"))
        )),
        Some(false) => problem(
            to,
            from,
            "client",
            leaf,
            &server.ca,
            &format!("Secret {SERVER}"),
        ),
        None => unclear(from),
    }
}

fn unclear(cluster: Cluster<'_>) -> Finding {
    Finding::Undecided(
        format!(
            "certificates without key ids and without a CA beside them: `{}`",
            cluster.context
        ),
        "`openssl verify -CAfile` with the CA of the one and the certificate of the other"
            .to_owned(),
    )
}

/// Whether one of `trust` signed `leaf`, which lies in `own`; by key ids, else by the CA that lies beside it.
fn signed(leaf: &Certificate, own: &KeyPair, trust: &[Certificate]) -> Option<bool> {
    if trust.iter().any(|ca| ca.fingerprint == leaf.fingerprint) {
        return Some(true);
    }
    let comparable = trust.iter().all(|ca| ca.key_id.is_some());
    match &leaf.authority {
        // Through intermediates of its own chain.
        Some(_) if comparable => {
            let mut wanted = leaf.authority.as_ref();
            for _ in 0..=own.chain.len() {
                let key = wanted?;
                if trust.iter().any(|ca| ca.key_id.as_ref() == Some(key)) {
                    return Some(true);
                }
                let above = own
                    .chain
                    .iter()
                    .skip(1)
                    .find(|c| c.key_id.as_ref() == Some(key));
                let Some(above) = above else {
                    return Some(false);
                };
                wanted = above.authority.as_ref();
            }
            Some(false)
        }
        _ if own.ca.is_empty() => None,
        _ => Some(
            own.ca
                .iter()
                .any(|ca| trust.iter().any(|t| t.fingerprint == ca.fingerprint)),
        ),
    }
}

/// Every certificate that was read, with where it lies.
fn all(cluster: Cluster<'_>) -> (Vec<(String, &Certificate)>, Option<Unread>) {
    let mut found: Vec<(String, &Certificate)> = Vec::new();
    let mut open = None;
    for secret in SECRETS {
        match pair_of(cluster, secret) {
            Ok(Some(pair)) => {
                let leaf = pair
                    .chain
                    .iter()
                    .map(|c| (format!("tls.crt of Secret {secret}"), c));
                let ca = pair
                    .ca
                    .iter()
                    .map(|c| (format!("ca.crt of Secret {secret}"), c));
                for (place, certificate) in leaf.chain(ca) {
                    let known = found
                        .iter()
                        .any(|(_, c)| c.fingerprint == certificate.fingerprint);
                    if !known {
                        found.push((place, certificate));
                    }
                }
            }
            Ok(None) => {}
            Err(unread) => open = open.or(Some(unread)),
        }
    }
    (found, open)
}

fn expiry(cluster: Cluster<'_>, now: i64) -> Finding {
    let context = cluster.context;
    let (certificates, open) = all(cluster);
    let at_fault = |bad: fn(&Certificate, i64) -> bool| {
        let mut bad: Vec<_> = certificates.iter().filter(|(_, c)| bad(c, now)).collect();
        bad.sort_by_key(|(_, c)| c.not_after);
        bad
    };
    let expired = at_fault(|c, now| c.not_after <= now);
    let future = at_fault(|c, now| c.not_before > now);
    if let Some((place, certificate)) = expired.first() {
        return Finding::Fail(Problem {
            cause: "certificate.expired",
            summary: format!(
                "`{context}`: the certificate in {place} expired on {}, {}",
                day(certificate.not_after),
                ago(now - certificate.not_after)
            ),
            evidence: expired
                .iter()
                .map(|(place, c)| format!("{place}: {}, until {}", c.subject, day(c.not_after)))
                .collect(),
            hint: renew(cluster, place),
        });
    }
    if let Some((place, certificate)) = future.first() {
        return Finding::Fail(Problem {
            cause: "certificate.future",
            summary: format!(
                "`{context}`: the certificate in {place} is not valid before {}",
                day(certificate.not_before)
            ),
            evidence: future
                .iter()
                .map(|(place, c)| format!("{place}: {}, from {}", c.subject, day(c.not_before)))
                .collect(),
            hint: format!(
                "compare the clocks of `{context}` and of this machine (`date -u`); whichever is right, certificates are checked against each node's own"
            ),
        });
    }
    settled(context, certificates.len(), open, || {
        let next = certificates
            .iter()
            .map(|(_, c)| c.not_after)
            .min()
            .unwrap_or(0);
        format!(
            "{} certificates, the first expires on {}",
            certificates.len(),
            day(next)
        )
    })
}

fn renewal(cluster: Cluster<'_>, now: i64) -> Finding {
    let context = cluster.context;
    let (certificates, open) = all(cluster);
    let mut soon: Vec<_> = certificates
        .iter()
        .filter(|(_, c)| c.not_after <= now + SOON)
        .collect();
    soon.sort_by_key(|(_, c)| c.not_after);
    // Those that have expired are another check's.
    let ahead: Vec<_> = soon
        .into_iter()
        .filter(|(_, c)| c.not_after > now)
        .collect();
    if let Some((place, certificate)) = ahead.first() {
        return Finding::Fail(Problem {
            cause: "certificate.expires_soon",
            summary: format!(
                "`{context}`: the certificate in {place} expires on {}, in {} days",
                day(certificate.not_after),
                (certificate.not_after - now) / DAY
            ),
            evidence: ahead
                .iter()
                .map(|(place, c)| format!("{place}: {}, until {}", c.subject, day(c.not_after)))
                .collect(),
            hint: renew(cluster, place),
        });
    }
    settled(context, certificates.len(), open, || {
        "none within 30 days".to_owned()
    })
}

fn settled(
    context: &str,
    count: usize,
    open: Option<Unread>,
    seen: impl Fn() -> String,
) -> Finding {
    match open {
        Some(unread) => Finding::unread(context, &unread),
        None if count == 0 => Finding::Undecided(
            format!("no certificate of clustermesh-apiserver in kube-system: `{context}`"),
            "`kubectl -n kube-system get secrets`; names other than the chart's are not known here"
                .to_owned(),
        ),
        None => Finding::Pass(seen()),
    }
}

fn renew(cluster: Cluster<'_>, place: &str) -> String {
    let context = shell(cluster.context);
    if place.starts_with("ca.crt") {
        return format!(
            "a new CA for every cluster: both CAs in `tls.caBundle.content` first, then `tls.ca.cert` and `tls.ca.key` in the Helm values of Cilium on `{}`, then new leaf certificates",
            cluster.context
        );
    }
    let job = "clustermesh-apiserver-generate-certs";
    format!(
        "with `clustermesh.apiserver.tls.auto.method: cronJob`: `kubectl --context {context} -n kube-system create job --from=cronjob/{job} {job}-now`; with method helm: `{}`; then restart clustermesh-apiserver",
        cluster.helm("clustermesh.apiserver.tls.auto.method", "cronJob")
    )
}

fn short(key: &str) -> String {
    match key.get(..12) {
        Some(head) if key.len() > 16 && key.bytes().all(|b| b.is_ascii_hexdigit()) => {
            format!("{head}…")
        }
        _ => key.to_owned(),
    }
}

fn ago(seconds: i64) -> String {
    match seconds / DAY {
        0 => "today".to_owned(),
        1 => "a day ago".to_owned(),
        days => format!("{days} days ago"),
    }
}

/// "2026-11-22", UTC.
pub(super) fn day(seconds: i64) -> String {
    // Days since 0000-03-01: leap days then end their year. (Hinnant, "chrono-compatible low-level date algorithms".)
    let days = seconds.div_euclid(DAY) + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (month, year) = if shifted < 10 {
        (shifted + 3, 0)
    } else {
        (shifted - 9, 1)
    };
    format!(
        "{:04}-{month:02}-{:02}",
        year_of_era + era * 400 + year,
        of_year - (153 * shifted + 2) / 5 + 1
    )
}

#[cfg(test)]
mod tests {
    use super::day;

    #[test]
    fn days_of_the_calendar() {
        for (seconds, date) in [
            (0, "1970-01-01"),
            (951_782_400, "2000-02-29"),
            (1_795_305_600, "2026-11-22"),
            (4_107_542_399, "2100-02-28"),
            (4_107_542_400, "2100-03-01"),
            (-1, "1969-12-31"),
        ] {
            assert_eq!(day(seconds), date, "{seconds}");
        }
    }
}

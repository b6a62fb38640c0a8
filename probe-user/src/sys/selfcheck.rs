//! `load --check`: a scratch cgroup, one connection, the counted event.

//! Talks to a Xen host: the xfi hypercall, domains, console.

//! kybern-dns

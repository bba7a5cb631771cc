"""The processes of the service: start, supervision, the embedded Valkey and its folder, listening sockets."""

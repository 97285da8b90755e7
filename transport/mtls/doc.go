// Package mtls says which node or client a connection comes from, by TLS 1.3 with certificates that
// name nodes and clients by URI, and bounds what each caller of a server may take.
//
//   - Identity: TLS has the credentials of both ends. CallerOf, LapsedCallerOf and WhyUnknown tell a
//     handler what the certificate of its caller names, and ServerOf a client which node has answered.
//   - For how long: a connection ends with the certificate that was shown for it, with its authority
//     (Recheck) and with its node (HangUp); Admitting asks at each call.
//   - What it may do: GuardOptions keep anonymous callers, those without a certificate that is
//     believed, to what is for everybody. Finer rules are the server's.
//   - What it may take: Limits bound connections, calls, headers, requests and answers, of each
//     principal, each address and all, known or anonymous, with or without TLS.
//   - Join tokens: TokenProof is a proof that the caller knows a token's secret, which is good on one
//     connection.
package mtls

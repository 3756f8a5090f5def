# A fixed bearer token.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"
prepare() { write_config "" '{bearer: {file: token}}'; }

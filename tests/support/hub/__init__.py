"""A compact Hub on loopback for the real client: repos with a history that take uploads, and faults on demand.

Routes (ID is user/name, T is models, datasets or spaces; outside /api the T of a model is left out):

    repos.py      GET        /api/whoami-v2               GET     /api/T/ID/auth-check[/write]
                  POST       /api/repos/create            DELETE  /api/repos/delete
                  GET        /api/T/ID[/revision/REV]     GET     /api/T/ID/tree/REV[/PATH]
                  GET        /api/T/ID/commits/REV        GET     /api/T/ID/refs
                  POST       /api/T/ID/branch/NAME
    uploads.py    POST       /api/validate-yaml           POST    /api/T/ID/preupload/REV
                  POST       /T/ID.git/info/lfs/objects/batch and /T/ID.git/info/lfs/objects/verify
                  POST       /api/T/ID/commit/REV[?create_pr=1]
    storage.py    GET, HEAD  /T/ID/resolve/REV/PATH
                  GET, PUT   /storage/T/ID/SHA256         LFS files: another host, signed addresses, never a token
"""

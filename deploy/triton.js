// Lets nginx answer /predictions/NAME for Triton as TorchServe does: the reply is the picture alone,
// with its content type, times and graph, and an error has its own status. deploy/nginx-triton.conf uses it; njs
// 0.7.9 and later run it.

// By the first byte of a reply.
const TYPES = {
    0xff: 'image/jpeg', 0x89: 'image/png', 0x52: 'image/webp', 0x49: 'image/tiff', 0x4d: 'image/tiff',
    0x50: 'application/zip', 0x7b: 'application/json',
};

async function predictions(r) {
    const named = /^\/predictions\/([\w.-]+)(?:\/(\d+))?$/.exec(r.uri);
    if (!named || r.variables.args) {
        const message = named ? 'Send options as headers, X-Colorize-Format: png.' : 'No such page.';
        return fail(r, named ? 400 : 404, 'bad_request', message);
    }
    const version = named[2] ? `/versions/${named[2]}` : '';
    const reply = await r.subrequest(`/raw/v2/models/${named[1]}${version}/infer`, {method: 'POST'});
    const body = reply.responseBuffer;
    const head = Number(reply.headersOut['Inference-Header-Content-Length']);
    if (reply.status === 200 && head < body.length) {
        const told = JSON.parse(body.slice(0, head).toString()).parameters || {}; // from Triton 25.02
        if (told.server_timing) {
            r.headersOut['Server-Timing'] = told.server_timing;
        }
        if (told.graph) {
            r.headersOut['X-Colorize-Graph'] = told.graph;
        }
        r.headersOut['Content-Type'] = TYPES[body[head]] || 'application/octet-stream';
        return r.return(200, body.slice(head));
    }
    let said = '';
    try {
        said = JSON.parse(body.toString()).error;
    } catch (e) {
        // A page of nginx's own, as when Triton doesn't run.
    }
    const ours = /^(\d{3}) (\w+): ([\s\S]*)$/.exec(said);
    if (ours) {
        return fail(r, Number(ours[1]), ours[2], ours[3]);
    }
    const status = reply.status < 400 ? 502 : reply.status;
    return fail(r, status, 'server_error', said || 'The server behind the proxy has no reply.');
}

function fail(r, status, type, message) {
    r.headersOut['Content-Type'] = 'application/json';
    r.return(status, JSON.stringify({code: status, type: type, message: message}) + '\n');
}

export default {predictions};

package ingest_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"afterimage/ingest"
)

func TestParseURL(t *testing.T) {
	for _, c := range []struct{ in, scheme, shown, path, host string }{
		{"rtsp://cam.example/street", "rtsp", "rtsp://cam.example/street", "", "cam.example"},
		{"RTSP://viewer:s3cret@192.0.2.10:554/stream2", "rtsp", "rtsp://xxxxx@192.0.2.10:554/stream2", "", "192.0.2.10:554"},
		{"rtsps://viewer@[2001:db8::1]:322/a", "rtsps", "rtsps://xxxxx@[2001:db8::1]:322/a", "", "[2001:db8::1]:322"},
		{"rtsp://u:p@h/cam?channel=1&subtype=0", "rtsp", "rtsp://xxxxx@h/cam?channel=1&subtype=0", "", "h"},
		{"rtsp://h/user=admin_password=tlJwpbo6_channel=1_stream=0.sdp", "rtsp", "rtsp://h/user=xxxxx", "", "h"},
		{"rtsp://h/channel=1_password=abc.sdp", "rtsp", "rtsp://h/xxxxx", "", "h"},
		{"http://h/bcs?channel=0&user=admin&password=pw", "http", "http://h/bcs?channel=0&user=xxxxx&password=xxxxx", "", "h"},
		{"https://h/a.m3u8?X-Amz-Signature=abc&x=1#frag", "https", "https://h/a.m3u8?X-Amz-Signature=xxxxx&x=1#xxxxx", "", "h"},
		{"https://h/a.m3u8?pass%77ord=abc", "https", "https://h/a.m3u8?pass%77ord=xxxxx", "", "h"},
		{"https://h/a.m3u8?0123456789abcdef0", "https", "https://h/a.m3u8?xxxxx", "", "h"},
		{"sim://street?seed=100007", "sim", "sim://street?seed=100007", "", "street"},
		{"v4l2:/dev/video0", "v4l2", "v4l2:/dev/video0", "/dev/video0", ""},
		{"v4l2:///dev/video2?size=640x480", "v4l2", "v4l2:/dev/video2?size=640x480", "/dev/video2", ""},
		{"clip.mp4", "file", "clip.mp4", "clip.mp4", ""},
		{"/a/b c.mp4", "file", "/a/b c.mp4", "/a/b c.mp4", ""},
		{"./what?.mp4", "file", "./what?.mp4", "./what?.mp4", ""},
		{"file:clip.mp4", "file", "clip.mp4", "clip.mp4", ""},
		{"file:concat:a", "file", "./concat:a", "./concat:a", ""},
		{"file:///a/b%20c.mp4", "file", "/a/b c.mp4", "/a/b c.mp4", ""},
		{"file://localhost/a.mp4", "file", "/a.mp4", "/a.mp4", ""},
	} {
		t.Run(c.in, func(t *testing.T) {
			u, err := ingest.ParseURL(c.in)
			require.NoError(t, err)
			assert.Equal(t, c.scheme, u.Scheme())
			assert.Equal(t, c.shown, u.String())
			assert.Equal(t, c.path, u.Path())
			assert.Equal(t, c.host, u.Host())
			if c.path != "" && c.scheme == "file" {
				assert.Equal(t, c.path, u.Raw())
			} else {
				assert.True(t, strings.EqualFold(c.in[:4], u.Raw()[:4]))
				_, rest, _ := strings.Cut(c.in, ":")
				assert.True(t, strings.HasSuffix(u.Raw(), strings.TrimPrefix(rest, "//")), "raw keeps every character")
			}
		})
	}
	u, err := ingest.ParseURL("sim://street?seed=7&secret=x")
	require.NoError(t, err)
	assert.Equal(t, "7", u.Param("seed"))
	assert.Equal(t, "x", u.Param("secret"))
	assert.Equal(t, "", u.Param("none"))
	assert.True(t, u.Live())
	assert.False(t, u.IsZero())
}

func TestParseURLRefuses(t *testing.T) {
	for _, in := range []string{
		"", "ftp://h/CANARY", "exec://CANARY", "concat:CANARY|b", "pipe:0", "user:CANARY@h/x", "subfile,,start,0,end,0,,:CANARY",
		"rtsp:CANARY", "rtsp://", "rtsp:///CANARY", "rtsp://u:CANARY/x@h/", "rtsp://u:CANARY#x@h/", "rtsp://u:CANARY?@h/", "rtsp://u:12/CANARY@h",
		"rtsp://u:a@b/CANARY@h/", "rtsp://h:99999/CANARY", "rtsp://h:/CANARY", "rtsp://h:port/CANARY", "rtsp://u:CAN%ARY@h/",
		"http://h/?a=%zzCANARY", "rtsp://h/\nCANARY", "v4l2:CANARY", "v4l2:/dev/../CANARY", "v4l2://h/dev/CANARY",
		"file://h/CANARY", "file:", "file:a?CANARY", "file:%00CANARY", "sim://u:CANARY@street", "sim:CANARY",
		"rtsp://h/" + strings.Repeat("a", 5000),
	} {
		t.Run(in[:min(len(in), 40)], func(t *testing.T) {
			u, err := ingest.ParseURL(in)
			require.Error(t, err)
			assert.NotContains(t, err.Error(), "CANARY")
			assert.True(t, u.IsZero())
			require.Error(t, new(ingest.URL).UnmarshalText([]byte(in)))
		})
	}
}

const canary = "Zq7canaryX"

// everyForm prints u in every way a program prints things.
func everyForm(t *testing.T, u ingest.URL) string {
	t.Helper()
	type exported struct {
		U ingest.URL
		P *ingest.URL
	}
	type hidden struct {
		u ingest.URL
		p *ingest.URL
	}
	var b bytes.Buffer
	for _, v := range []any{u, &u, exported{u, &u}, &exported{u, &u}, hidden{u, &u}, &hidden{u, &u}, []ingest.URL{u}, map[string]ingest.URL{"k": u}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%T", "%t", "%10.3v"} {
			_, _ = fmt.Fprintf(&b, verb+"\n", v)
		}
		slog.New(slog.NewTextHandler(&b, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "v", v)
		j, err := json.Marshal(v)
		require.NoError(t, err)
		b.Write(j)
	}
	x, err := xml.Marshal(exported{u, &u})
	require.NoError(t, err)
	b.Write(x)
	b.WriteString(fmt.Errorf("open %v: %w", u, errors.New("x")).Error())
	return b.String()
}

// However the characters around it break the URL apart, a password is shown by no error, no formatter and no redacted text.
func FuzzURLNeverLeaks(f *testing.F) {
	for _, s := range [][3]string{
		{"rtsp://user:", "", "@h/x"}, {"rtsp://", "", "@h/x"}, {"https://u:a", "%40b", "@h:8443/x.m3u8?n=1#f"}, {"rtsp://u:", "/", "@h/"},
		{"rtsp://u:", "#", "@h/"}, {"rtsp://u:1", "?a=b", "@h/"}, {"u:", "", "@h/"}, {"rtsp://h/x?password=", "", "&a=b"}, {"rtsp://h/user=a_password=", "_channel=1", ""},
		{"http://h?auth", "=", ""}, {"sim://street?token=", "", "&seed=1"}, {"v4l2:/dev/video0?key=", "", ""}, {"rtsp://u:%zz", "", "@h"}, {"rtsp://[::1]:", "", "@h"},
	} {
		f.Add(s[0], s[1], s[2])
	}
	f.Fuzz(func(t *testing.T, before, after, rest string) {
		s := before + canary + after + rest
		u, err := ingest.ParseURL(s)
		if err != nil {
			require.NotContains(t, err.Error(), canary)
			return
		}
		again, err := ingest.ParseURL(u.String())
		if err == nil {
			require.Equal(t, u.String(), again.String(), "redaction is stable")
		}
		// The canary is a secret where the URL has it as its user or its password.
		std, err := url.Parse(s)
		if err != nil || std.User == nil || u.Scheme() == ingest.FileScheme {
			return
		}
		password, _ := std.User.Password()
		if !strings.Contains(std.User.Username()+password, canary) {
			return
		}
		text := everyForm(t, u)
		require.NotContains(t, text, canary)
		require.NotContains(t, text, fmt.Sprintf("%x", canary))
		require.NotContains(t, u.Redact("dial "+s+" as "+password+" refused"), canary)
	})
}

func TestURLNeverLeaks(t *testing.T) {
	for _, s := range []string{
		"rtsp://user:" + canary + "@h/x", "rtsp://" + canary + "@h/x", "rtsp://h/x?password=" + canary, "rtsp://h/user=a_password=" + canary + "_channel=1",
		"https://u:" + canary + "%40b@h:8443/x.m3u8?token=" + canary + "&n=1#" + canary, "https://h/?" + canary + canary, "v4l2:/dev/video0?auth=" + canary,
	} {
		t.Run(s, func(t *testing.T) {
			u, err := ingest.ParseURL(s)
			require.NoError(t, err)
			text := everyForm(t, u)
			assert.NotContains(t, text, canary)
			assert.NotContains(t, text, fmt.Sprintf("%x", canary))
			assert.NotContains(t, text, strings.ToUpper(fmt.Sprintf("%x", canary)))
			assert.Contains(t, u.Raw(), canary)
			assert.NotContains(t, u.Redact("open "+u.Raw()+" failed"), canary)
		})
	}
	u, err := ingest.ParseURL("rtsp://user:" + canary + "%40@h/x")
	require.NoError(t, err)
	assert.Equal(t, "dial rtsp://xxxxx@h/x: xxxxx and xxxxx refused", u.Redact("dial "+u.Raw()+": "+canary+"@ and "+canary+"%40 refused"))
	assert.Equal(t, "nothing here", u.Redact("nothing here"))
}
